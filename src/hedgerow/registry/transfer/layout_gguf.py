"""GGUF: a header of metadata, a table of tensors, then the tensors (little endian, versions 2 and 3).

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. ``models.gguf_file`` reads whole checkpoints with the `gguf`
package for conversion; here only places are of interest, on machines that have no such package.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from hedgerow.registry.transfer.dtypes import GGUF
from hedgerow.registry.transfer.reading import DamagedError, Window
from hedgerow.registry.transfer.recipe import Tensor

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_SCALAR_BYTES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING: Final = 8
_ARRAY: Final = 9
_DEFAULT_ALIGNMENT: Final = 32
_MAX_DIMENSIONS: Final = 8
_MAX_NAME: Final = 1024
# Vocabularies have up to some 300,000 words; a header that holds more strings than this is not worth the time.
_MAX_STRINGS: Final = 2_000_000
_MAX_TENSORS: Final = 100_000
_ALIGNMENT_KEY: Final = b"general.alignment"


class _Cursor:
    def __init__(self, window: Window) -> None:
        self._window = window
        self.position = 0
        self.strings = 0

    def number(self, code: str) -> int:
        value = self._window.number(self.position, code)
        self.position += {"I": 4, "Q": 8}[code]
        return value

    def skip(self, size: int) -> None:
        self.position += size
        if self.position > self._window.size:
            raise DamagedError("the header ends after the file")

    def string(self) -> bytes:
        length = self.number("Q")
        text = self._window.read(self.position, min(length, _MAX_NAME))
        self.skip(length)
        return text

    def skip_value(self, kind: int) -> None:
        if kind in _SCALAR_BYTES:
            self.skip(_SCALAR_BYTES[kind])
        elif kind == _STRING:
            self.skip(self.number("Q"))
        elif kind == _ARRAY:
            self._skip_array()
        else:
            raise DamagedError(f"a value of type {kind}")

    def _skip_array(self) -> None:
        item, count = self.number("I"), self.number("Q")
        if item in _SCALAR_BYTES:
            self.skip(count * _SCALAR_BYTES[item])
            return
        self.strings += count
        if item != _STRING or self.strings > _MAX_STRINGS:  # arrays of arrays are allowed and used by nobody
            raise DamagedError(f"an array of {count} values of type {item}")
        for _ in range(count):
            self.skip(self.number("Q"))


def read(window: Window) -> dict[str | None, list[Tensor]]:
    """Every tensor of a known type.

    Raises:
        DamagedError: no GGUF file, or not one that is read here.
    """
    if window.read(0, 4) != _MAGIC or window.number(4, "I") not in _VERSIONS:
        raise DamagedError("not GGUF 2 or 3")
    cursor = _Cursor(window)
    cursor.skip(8)
    tensors, keys = cursor.number("Q"), cursor.number("Q")
    if tensors > _MAX_TENSORS or keys > _MAX_TENSORS:
        raise DamagedError(f"{tensors} tensors, {keys} keys")
    alignment = _DEFAULT_ALIGNMENT
    for _ in range(keys):
        key, kind, start = cursor.string(), cursor.number("I"), cursor.position
        cursor.skip_value(kind)
        if key == _ALIGNMENT_KEY and cursor.position - start == 4:  # noqa: PLR2004 -- bytes of the uint32 it must be
            alignment = max(window.number(start, "I"), 1)
    table = [_tensor_info(cursor) for _ in range(tensors)]
    data = -(-cursor.position // alignment) * alignment
    return {None: [found for info in table if (found := _tensor(info, data, window.size)) is not None]}


class _Info(NamedTuple):
    """A row of the table: ``offset`` is that in the data."""

    name: str
    weights: int
    kind: int
    offset: int


def _tensor_info(cursor: _Cursor) -> _Info:
    name = cursor.string().decode(errors="replace")
    dimensions = cursor.number("I")
    if dimensions > _MAX_DIMENSIONS:
        raise DamagedError(f"a tensor of {dimensions} dimensions")
    weights = math.prod(cursor.number("Q") for _ in range(dimensions))
    return _Info(name, weights, cursor.number("I"), cursor.number("Q"))


def _tensor(info: _Info, data: int, end: int) -> Tensor | None:
    if info.kind not in GGUF:
        return None
    dtype, size, per_block = GGUF[info.kind]
    place, length = data + info.offset, info.weights // per_block * size
    return Tensor(info.name, dtype, place, length) if length and place + length <= end else None
