"""The file of revocation lists on a host: read when it changes, and never lost to a bad write.

Whoever fetches it verifies it and replaces it in one step (``hedgerow-device identity``, a converge). Invariants:

- No file: nobody is refused, as before there were lists.
- A file that cannot be read, is damaged or has gone leaves what was read before in force, and ``problem`` says so.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hedgerow.identity.revoked import Lists

# A bundle of a thousand authorities with a revoked certificate each is 400 KB.
_MAXIMUM_BYTES: Final = 16 * 1024 * 1024

_Stamp = tuple[int, int, int]


class CrlFile:
    """The lists of ``path`` as they were last read; ``look`` reads them again where the file changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lists = Lists()
        self.problem: str | None = None
        self._stamp: _Stamp | None = None

    def look(self) -> bool:
        """Read the file if it is another one than before; whether ``lists`` changed."""
        try:
            stamp = _stamp(self.path)
        except FileNotFoundError:
            self.problem = None if self._stamp is None else f"{self.path} has gone; what it said is still applied"
            return False
        except OSError as error:
            self.problem = f"{self.path} cannot be read: {error.strerror}"
            return False
        if stamp == self._stamp:
            return False
        try:
            lists = Lists.parse(_read(self.path))
        except (OSError, ValueError) as error:
            # The stamp stays the old one: it is tried again, and a better file is taken.
            self.problem = f"{self.path} cannot be used: {error}"
            return False
        self._stamp, self.lists, self.problem = stamp, lists, None
        return True

    def outdated(self, now: datetime | None = None) -> datetime | None:
        """Since when a list is out of date; None while all are current."""
        return self.lists.outdated(now or datetime.now(UTC))


def _stamp(path: Path) -> _Stamp:
    found = path.stat()
    return found.st_mtime_ns, found.st_ino, found.st_size


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > _MAXIMUM_BYTES:
            raise ValueError(f"it is larger than {_MAXIMUM_BYTES} bytes")
        return file.read()
