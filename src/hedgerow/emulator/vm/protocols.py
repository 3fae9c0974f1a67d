"""The two sockets of a running machine: QEMU's monitor (QMP) and the agent inside the guest.

Both speak JSON, one document a line. The monitor also tells events. Either side serves one client at a time.

Formats: QEMU's qapi/*.json and qga/qapi-schema.json.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from hedgerow.errors import DeviceError

_POLL_S = 0.1
_AGENT_TIMEOUT_S = 10
_CHUNK = 65536


class Silent(DeviceError):
    """Nobody answers on a socket: the machine is off, still boots, or hangs."""


class _Lines:
    """A connection to a Unix socket that carries JSON lines."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._rest = b""
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise Silent(f"nothing listens: {error.strerror}", where=str(path)) from error

    def close(self) -> None:
        self._socket.close()

    def send(self, document: object, *, before: bytes = b"") -> None:
        try:
            self._socket.sendall(before + json.dumps(document).encode() + b"\n")
        except OSError as error:
            raise Silent(f"the machine went away: {error.strerror}") from error

    def receive(self, deadline: float | None) -> dict[str, Any] | None:
        """The next document; None at the end of the stream."""
        while b"\n" not in self._rest:
            if deadline is not None and (left := deadline - time.monotonic()) <= 0:
                raise Silent("no answer in time")
            self._socket.settimeout(None if deadline is None else left)
            try:
                data = self._socket.recv(_CHUNK)
            except TimeoutError:
                raise Silent("no answer in time") from None
            except OSError:
                return None
            if not data:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        # The agent marks the answer to a delimited sync with a byte that no JSON has.
        document: dict[str, Any] = json.loads(line.rpartition(b"\xff")[2])
        return document


class Monitor:
    """QMP. ``events`` ends when QEMU does."""

    def __init__(self, path: Path, *, timeout_s: float = 10) -> None:
        self._lines = _Lines(path)
        self._lines.receive(time.monotonic() + timeout_s)  # the greeting
        self.execute("qmp_capabilities", timeout_s=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    def execute(self, command: str, /, *, timeout_s: float = 10, **arguments: object) -> Any:
        self._lines.send({"execute": command, "arguments": arguments})
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self._lines.receive(deadline)
            if answer is None:
                raise Silent("QEMU ended before it answered", where=command)
            if "error" in answer:
                raise DeviceError(f"QEMU refuses: {answer['error']['desc']}", where=command)
            if "return" in answer:
                return answer["return"]

    def human(self, line: str, *, timeout_s: float) -> str:
        """A command of the human monitor, which alone has savevm in one step; it says nothing when all is well."""
        return str(self.execute("human-monitor-command", timeout_s=timeout_s, **{"command-line": line})).strip()

    def events(self) -> Iterator[dict[str, Any]]:
        while (document := self._lines.receive(None)) is not None:
            if "event" in document:
                yield document


class Agent:
    """The QEMU guest agent: a door into the guest that no network, sshd or firewall of the guest closes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as root in the guest; its exit code is in the result."""
        arguments = {
            "path": argv[0],
            "arg": list(argv[1:]),
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"],
            "input-data": base64.b64encode(stdin).decode(),
            "capture-output": True,
        }
        deadline = time.monotonic() + timeout_s
        pid = self._call("guest-exec", arguments)["pid"]
        while not (status := self._call("guest-exec-status", {"pid": pid}))["exited"]:
            if time.monotonic() > deadline:
                raise Silent(f"the program still runs after {timeout_s:.0f} s", where=" ".join(argv))
            time.sleep(_POLL_S)
        out, err = (base64.b64decode(status.get(key, "")).decode(errors="replace") for key in ("out-data", "err-data"))
        code = status["exitcode"] if "exitcode" in status else 128 + status.get("signal", 0)
        return subprocess.CompletedProcess(list(argv), code, out, err)

    def set_clock(self) -> None:
        """Give the guest this machine's time: one that resumed from a snapshot lives in the past."""
        # Not guest-set-time: it wants hwclock, which Debian keeps in a package that Raspberry Pi OS lite lacks.
        done = self.run(["date", "--utc", f"--set=@{time.time():.3f}"], timeout_s=60)
        if done.returncode != 0:
            raise DeviceError(f"the guest's clock could not be set: {done.stderr.strip()}")

    def _call(self, command: str, arguments: dict[str, Any]) -> Any:
        """One question on a connection of its own, so that a long program keeps nobody else out."""
        deadline = time.monotonic() + _AGENT_TIMEOUT_S
        with self._connected(deadline) as lines:
            lines.send({"execute": command, "arguments": arguments})
            answer = lines.receive(deadline)
        if answer is None:
            raise Silent("the machine went away", where=command)
        if "error" in answer:
            raise DeviceError(f"the guest's agent refuses: {answer['error']['desc']}", where=command)
        return answer["return"]

    @contextlib.contextmanager
    def _connected(self, deadline: float) -> Iterator[_Lines]:
        """A connection in step with the agent; what it still had to say to an earlier client is passed over."""
        with _alone(self._path.with_suffix(".lock")):
            lines = _Lines(self._path)
            try:
                number = secrets.randbelow(1 << 31)
                lines.send({"execute": "guest-sync-delimited", "arguments": {"id": number}}, before=b"\xff")
                while (answer := lines.receive(deadline)) != {"return": number}:
                    if answer is None:
                        raise Silent("the machine went away")
                yield lines
            finally:
                lines.close()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
