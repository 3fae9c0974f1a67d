"""How often the server ended without having been told to, since boot or since it was stopped.

systemd counts the same (``NRestarts``), but passes it to no unit, and a confined service may not ask. The unit's
runtime directory outlives a restart and not a stop (``RuntimeDirectoryPreserve=restart``): a file there is enough.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_FILE = "ends"
_RUNNING, _ENDED = "running", "ended"


class Restarts:
    """Counts in ``folder``; a folder that cannot be written makes ``count`` None."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self.count: int | None = None

    def begin(self) -> None:
        """The server starts: an earlier one that is still marked as running was cut off."""
        state, count = self._read()
        count += state == _RUNNING
        if self._write(_RUNNING, count):
            self.count = count

    def end(self) -> None:
        """The server ends as it was told to."""
        self._write(_ENDED, self.count or 0)

    def _read(self) -> tuple[str, int]:
        with contextlib.suppress(OSError, ValueError):
            state, count = self._path.read_text(encoding="ascii").split()
            return state, int(count)
        return _ENDED, 0

    def _write(self, state: str, count: int) -> bool:
        try:
            self._path.write_text(f"{state} {count}\n", encoding="ascii")
        except OSError:
            return False
        return True
