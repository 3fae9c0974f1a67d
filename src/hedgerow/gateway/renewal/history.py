"""What the gateway has renewed: an append-only, hash-chained log, and what follows from it.

A line is on disk before the certificate it announces is signed. The controller fetches the file as it is
(``GET /identity/log``) and can tell by its chain that nothing was taken out.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from hedgerow.chainlog import ChainLog

FILE: Final = "renewals.jsonl"


class _Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """``time`` is RFC 3339 in UTC. ``certificate`` is the serial number (hex) of the one that was shown."""

    time: str
    serial: str
    host: str
    certificate: str
    key_sha256: str


class Renewed(_Line, frozen=True, kw_only=True, tag="renewed"):
    """A certificate for ``key_sha256`` was asked for and allowed; ``grace``: after the end of the one shown."""

    grace: bool


class Clone(_Line, frozen=True, kw_only=True, tag="cloned"):
    """A second board was seen; ``serial`` gets nothing until it is cleared."""

    what: str


Line = Renewed | Clone


class History:
    """The log of ``folder``. ``cleared``: serial → time (RFC 3339) up to which its lines count no more.

    Raises:
        ChainError: the log was changed or cut off.
    """

    def __init__(self, folder: Path, cleared: Mapping[str, str]) -> None:
        self.log: ChainLog[Line] = ChainLog(folder / FILE, Line, name="log of renewals", mode=0o640)
        self._cleared = {serial: datetime.fromisoformat(time) for serial, time in cleared.items()}
        self._renewed: dict[str, str] = {}
        self._holders: dict[str, str] = {}
        self.cloned: set[str] = set()
        self.log.check()
        for entry in self.log.entries():
            self._take(entry.value)

    def key_of(self, certificate: str) -> str | None:
        """The key (SHA-256) that ``certificate`` was renewed for; None if it never was."""
        return self._renewed.get(certificate)

    def other_holder(self, key_sha256: str, serial: str) -> str | None:
        """The serial of another board that was certified for the key."""
        holder = self._holders.get(key_sha256)
        return None if holder == serial else holder

    def append(self, line: Line) -> None:
        """Write a line durably, then go by it.

        Raises:
            MachineError: the disk is full or fails.
            ChainError: the log was changed or cut off.
        """
        self.log.append(line)
        self._take(line)

    def _take(self, line: Line) -> None:
        cleared = self._cleared.get(line.serial)
        if cleared is not None and datetime.fromisoformat(line.time) <= cleared:
            return
        if isinstance(line, Clone):
            self.cloned.add(line.serial)
        else:
            self._renewed[line.certificate] = line.key_sha256
            self._holders[line.key_sha256] = line.serial
