"""Small reads anywhere in a file of any size, in bounded memory: what the parsers of headers stand on."""

from __future__ import annotations

import struct
from typing import BinaryIO, Final

_BLOCK: Final = 1 << 16


class DamagedError(ValueError):
    """The bytes are not what their format demands; the file is then cut by its content, as any other."""


class Window:
    """Reads of a seekable ``file`` of ``size`` bytes through one buffer of 64 KiB.

    Raises:
        DamagedError: from every method, where the file ends before what was asked for.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.size = size
        self._file = file
        self._start = 0
        self._buffer = b""

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset``."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise DamagedError(f"{length} bytes at {offset} of {self.size}")
        if not self._start <= offset <= offset + length <= self._start + len(self._buffer):
            self._file.seek(offset)
            self._start, self._buffer = offset, self._file.read(max(length, _BLOCK))
            if len(self._buffer) < length:
                raise DamagedError(f"the file ends at {offset + len(self._buffer)}")
        begin = offset - self._start
        return self._buffer[begin : begin + length]

    def number(self, offset: int, code: str) -> int:
        """One little-endian number in the notation of ``struct``."""
        return int(struct.unpack("<" + code, self.read(offset, struct.calcsize("<" + code)))[0])
