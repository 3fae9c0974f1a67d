"""One writer per fleet: a lease that lives as long as the process that took it.

The mechanism is one long process (``ansible-playbook``) whose workers come and
go, and a worker's own file lock would end with it. So the lease names a
process by its number **and** its start time, and is good while that process
lives: a controller killed with -9 leaves nothing to clean up, a recycled
process number is not mistaken for it. Taking and leaving happen under a file
lock. A lease of another machine cannot be checked from here and is believed.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hedgerow import atomic
from hedgerow.errors import RefusedError


class Lease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may write. ``started`` is in clock ticks after boot (field 22 of /proc/PID/stat, proc(5))."""

    rollout: str
    pid: int
    started: int
    machine: str
    boot: str
    by: str
    since: str


def _started(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in brackets and may hold anything.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def alive(lease: Lease) -> bool:
    """Whether the holder still runs, as far as this machine can tell."""
    if lease.machine != socket.gethostname():
        return True
    return lease.boot == _boot_id() and _started(lease.pid) == lease.started


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / "lease.json"


def read(folder: Path) -> Lease | None:
    """The lease in ``folder`` if its holder is alive."""
    try:
        data = (folder / "lease.json").read_bytes()
    except FileNotFoundError:
        return None
    lease = msgspec.json.decode(data, type=Lease)
    return lease if alive(lease) else None


def take(folder: Path, rollout: str, *, pid: int, by: str, since: str) -> Lease:
    """Take the lease of a fleet's rollouts for process ``pid`` (the mechanism's main process).

    Raises:
        RefusedError: Another process holds it; the message names who.
    """
    started = _started(pid)
    if started is None:
        raise ValueError(f"no process {pid}")
    mine = Lease(
        rollout=rollout, pid=pid, started=started, machine=socket.gethostname(), boot=_boot_id(), by=by, since=since
    )
    with _locked(folder) as path:
        holder = read(folder)
        if holder is not None and (holder.machine, holder.pid) != (mine.machine, mine.pid):
            raise RefusedError(
                f"rule one-writer: {holder.by} is rolling out since {holder.since} (process {holder.pid} on "
                f"{holder.machine}, rollout {holder.rollout})",
                where=str(path),
                next_step=f"wait for it, or end it there: kill -INT {holder.pid}",
            )
        atomic.write_bytes(path, msgspec.json.encode(mine) + b"\n", mode=0o644)
    return mine


def leave(folder: Path, *, pid: int) -> None:
    """Give the lease back if ``pid`` holds it."""
    with _locked(folder) as path:
        holder = read(folder)
        if holder is not None and (holder.machine, holder.pid) == (socket.gethostname(), pid):
            path.unlink()


def whoami() -> str:
    """``user@machine``, for messages and journals; the person behind sudo, if there is one."""
    return f"{os.environ.get('SUDO_USER') or pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}"
