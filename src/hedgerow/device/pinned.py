"""How far this device is from the version lock: what the lock says lies in a file, what is installed in dpkg's.

No program is run, apt's least of all. The status file of a Pi has a megabyte; it is read again when it changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hedgerow.converge.pins import same
from hedgerow.converge.reboot import pending_kernel

LOCK = Path("/etc/hedgerow/pins.json")  # written by role os_pinning
STATUS = Path("/var/lib/dpkg/status")


class Pinned:
    """The lock of this device, and what of it is otherwise."""

    def __init__(self, lock: Path = LOCK, status: Path = STATUS) -> None:
        self._lock, self._status = lock, status
        self._seen: tuple[tuple[int, ...], dict[str, Any], dict[str, str]] | None = None

    def drifted(self) -> int | None:
        """How many installed packages are not what the lock says; None without a lock."""
        read = self._read()
        if read is None:
            return None
        lock, installed = read
        wrong = [
            name for name, wanted in lock["packages"].items() if name in installed and not same(wanted, installed[name])
        ]
        return len(wrong) + len([name for name in lock["blocked"] if name in installed])

    def pending(self, running: str | None) -> bool | None:
        """Whether the next boot takes another kernel than ``running``; None where either is unknown."""
        read = self._read()
        return None if read is None or running is None else pending_kernel(running, read[1]) is not None

    def _read(self) -> tuple[dict[str, Any], dict[str, str]] | None:
        try:
            stamp = tuple(value for file in (self._lock, self._status) for value in _stamp(file))
            if self._seen is None or self._seen[0] != stamp:
                lock = json.loads(self._lock.read_text(encoding="utf-8"))
                self._seen = (stamp, lock, parse_status(self._status.read_text(encoding="utf-8", errors="replace")))
        except (OSError, ValueError):
            return None
        return self._seen[1], self._seen[2]


def parse_status(text: str) -> dict[str, str]:
    """Package → version of what dpkg has wholly installed (deb822, dpkg(1))."""
    found = {}
    for paragraph in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if line.startswith(("Package: ", "Status: ", "Version: "))
        )
        if fields.get("Status", "").endswith(" installed"):
            found[fields["Package"]] = fields["Version"]
    return found


def _stamp(file: Path) -> tuple[int, int, int]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
