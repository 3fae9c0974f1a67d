"""Bind what the server listens on, and say who is in the way."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from hedgerow.errors import MachineError
from hedgerow.server.config import Address

_BACKLOG = 512
_UNIX_MODE = 0o660
# Fields of a line of /proc/net/tcp (proc_net_tcp.txt): local address, state, inode; 0A is LISTEN.
_LOCAL, _STATE, _INODE, _LISTEN = 1, 3, 9, "0A"


def listen(address: Address) -> socket.socket:
    """Bind, without waiting for old connections of an earlier process to time out.

    Raises:
        MachineError: the port is taken (it says by whom, where that can be told) or not allowed.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in address.address else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((address.address, address.port))
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        if error.errno != errno.EADDRINUSE:
            raise MachineError(f"cannot listen: {error.strerror}", where=str(address)) from error
        who = owner(address.port)
        raise MachineError(
            f"port {address.port} is taken" + ("" if who is None else f" by {who}"),
            where=str(address),
            next_step="end it, or listen on another port"
            if who
            else f"see who has it: sudo ss -ltnp 'sport = :{address.port}'",
        ) from error
    bound.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return bound


def listen_unix(path: Path) -> socket.socket:
    """Bind a Unix socket, replacing one that an earlier process left behind.

    Raises:
        MachineError: its folder is missing or not ours, or another server answers on it.
    """
    if _answers(path):
        raise MachineError("another server has the control socket", where=str(path), next_step="end that one first")
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        bound.bind(str(path))
        path.chmod(_UNIX_MODE)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise MachineError(
            f"cannot make the control socket: {error.strerror or error}",
            where=str(path),
            next_step="start the server by its unit, which makes the folder",
        ) from error
    bound.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return bound


def owner(port: int) -> str | None:
    """Who listens on TCP ``port``: program and process id; None where that is hidden from this user."""
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(table, port)}
    for descriptor in Path("/proc").glob("[0-9]*/fd/*") if inodes else ():
        try:
            if str(descriptor.readlink()) in inodes:
                process = descriptor.parent.parent
                return f"{(process / 'comm').read_text(encoding='utf-8').strip()} (process {process.name})"
        except OSError:  # not ours to look at, or gone meanwhile
            continue
    return None


def _listening(table: str, port: int) -> list[str]:
    try:
        lines = Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return []
    rows = [line.split() for line in lines]
    return [row[_INODE] for row in rows if row[_STATE] == _LISTEN and int(row[_LOCAL].rpartition(":")[2], 16) == port]


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0
