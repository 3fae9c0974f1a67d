"""ONNX: initializers and constants of a graph, found by walking protobuf's wire format.

No `onnx` package and no copy of the weights: a model of 2 GB is walked by reading some hundred bytes a tensor. Field
numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from hedgerow.registry.transfer.reading import DamagedError, Window
from hedgerow.registry.transfer.recipe import MAX_FILE_BYTES, Tensor

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_VARINT_BITS: Final = 64
_MAX_VARINT_BYTES: Final = 10
# ModelProto.graph; GraphProto.node, .initializer; NodeProto.attribute; AttributeProto.t, .g, .tensors, .graphs
_GRAPH, _NODE, _INITIALIZER, _ATTRIBUTE = 7, 1, 5, 5
_ATTRIBUTE_TENSORS: Final = (5, 10)
_ATTRIBUTE_GRAPHS: Final = (6, 11)
# TensorProto
_DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL, _LOCATION = 2, 8, 9, 13, 14
_PACKED: Final = {4: "float32", 10: "float64"}  # float_data, double_data: the same bytes as raw_data
_IN_ANOTHER_FILE: Final = 1
_DTYPES: Final = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8",
    18: "float8", 19: "float8", 20: "float8", 21: "uint4", 22: "int4",
}  # fmt: skip
# A node below this holds no tensor that matters, and most of a graph's nodes are below it.
_SMALL: Final = 4096
_MAX_DEPTH: Final = 8
_MAX_FIELDS: Final = 500_000
_MAX_TEXT: Final = 1024


class _Field(NamedTuple):
    """Field ``number``: ``value`` of a number, else content from ``start`` to ``end`` in the file."""

    number: int
    value: int
    start: int
    end: int


@dataclass
class _Walk:
    window: Window
    found: dict[str | None, list[Tensor]] = field(default_factory=dict)
    fields: int = 0
    tensors: int = 0

    def message(self, start: int, end: int) -> Iterator[_Field]:
        """The fields of the message in ``[start, end)``."""
        position = start
        while position < end:
            self.fields += 1
            if self.fields > _MAX_FIELDS:
                raise DamagedError("too many fields")
            key, position = self._varint(position, end)
            number, kind = key >> 3, key & 7
            value, length = 0, 0
            if kind == _VARINT:
                value, position = self._varint(position, end)
            elif kind == _LENGTH:
                length, position = self._varint(position, end)
            elif kind in {_FIXED32, _FIXED64}:
                length = 4 if kind == _FIXED32 else 8
            else:
                raise DamagedError(f"wire type {kind} at {position}")
            if length > end - position:
                raise DamagedError(f"a field at {position} ends after its message")
            yield _Field(number, value, position, position + length)
            position += length

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        data = self.window.read(position, min(_MAX_VARINT_BYTES, end - position))
        value = 0
        for place, byte in enumerate(data):
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:  # noqa: PLR2004 -- the bit that says "more follows"
                return value & ((1 << _VARINT_BITS) - 1), position + place + 1
        raise DamagedError(f"a number at {position} does not end")

    def graph(self, start: int, end: int, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise DamagedError("graphs within graphs")
        for part in self.message(start, end):
            if part.number == _INITIALIZER:
                self.tensor(part.start, part.end)
            elif part.number == _NODE and part.end - part.start >= _SMALL:
                for inner in self.message(part.start, part.end):
                    if inner.number == _ATTRIBUTE and inner.end - inner.start >= _SMALL:
                        self._attribute(inner, depth)

    def _attribute(self, attribute: _Field, depth: int) -> None:
        for part in self.message(attribute.start, attribute.end):
            if part.number in _ATTRIBUTE_TENSORS:
                self.tensor(part.start, part.end)
            elif part.number in _ATTRIBUTE_GRAPHS:
                self.graph(part.start, part.end, depth + 1)

    def tensor(self, start: int, end: int) -> None:
        self.tensors += 1
        name, dtype, location = f"#{self.tensors}", "uint8", 0
        content: _Field | None = None
        outside: dict[str, str] = {}
        for part in self.message(start, end):
            if part.number == _DATA_TYPE:
                dtype = _DTYPES.get(part.value, "uint8")
            elif part.number == _NAME:
                name = self._text(part) or name
            elif part.number == _RAW_DATA or part.number in _PACKED:
                content = part
            elif part.number == _EXTERNAL:
                entry = {inner.number: self._text(inner) for inner in self.message(part.start, part.end)}
                outside[entry.get(1, "")] = entry.get(2, "")
            elif part.number == _LOCATION:
                location = part.value
        if location == _IN_ANOTHER_FILE:
            self._outside(name, dtype, outside)
        elif content is not None and content.end > content.start:
            place = Tensor(name, dtype, content.start, content.end - content.start)
            self.found.setdefault(None, []).append(place)

    def _outside(self, name: str, dtype: str, entry: dict[str, str]) -> None:
        try:
            offset, length = int(entry.get("offset", "0")), int(entry["length"])
        except (KeyError, ValueError):
            return
        if entry.get("location") and 0 <= offset <= MAX_FILE_BYTES and 0 < length <= MAX_FILE_BYTES:
            self.found.setdefault(entry["location"], []).append(Tensor(name, dtype, offset, length))

    def _text(self, part: _Field) -> str:
        return self.window.read(part.start, min(part.end - part.start, _MAX_TEXT)).decode(errors="replace")


def read(window: Window) -> dict[str | None, list[Tensor]]:
    """Tensors of the model, by the file that holds them; None is the model itself.

    Raises:
        DamagedError: no protobuf message.
    """
    walk = _Walk(window)
    for part in walk.message(0, window.size):
        if part.number == _GRAPH:
            walk.graph(part.start, part.end, 0)
    return walk.found
