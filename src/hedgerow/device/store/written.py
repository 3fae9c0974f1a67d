"""How many bytes the store has written: what wears a card (``written.json``; the exporter may read it).

It counts what is written to files; the file system's own blocks come on top. The count is flushed now and then and at
the end, so a kill loses at most ``FLUSH_BYTES`` of it, and the counting itself wears nothing.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from hedgerow import atomic

FLUSH_BYTES = 64 << 20


class Written(msgspec.Struct, frozen=True):
    """``bytes`` written in all, and ``by`` what: ``fetched``, ``patched``, ``copied`` and ``spooled``."""

    bytes: int = 0
    by: dict[str, int] = {}


def read(path: Path) -> Written:
    """The count; nothing where there is no file, or a damaged one: a count is not worth a failure."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Written)
    except (OSError, msgspec.DecodeError):
        return Written()


class Counter:
    """Adds to the count; a context manager that flushes at its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new: dict[str, int] = {}
        self.bytes = 0
        """What this one has counted."""

    def add(self, kind: str, size: int) -> None:
        self._new[kind] = self._new.get(kind, 0) + size
        self.bytes += size
        if sum(self._new.values()) >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the count; a disk that takes no more is somebody else's finding."""
        if not self._new:
            return
        before = read(self._path)
        by = dict(before.by)
        for kind, size in self._new.items():
            by[kind] = by.get(kind, 0) + size
        total = Written(before.bytes + sum(self._new.values()), by)
        with suppress(OSError):
            atomic.write_bytes(self._path, msgspec.json.encode(total))
            self._new = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
