"""Read what a TensorFlow Lite file says of itself: schema version, inputs, outputs. Nothing is run.

The file is a FlatBuffer (https://flatbuffers.dev/internals): a table starts with the distance back to its vtable, which
holds the place of each field. Fields by number: ``tensorflow/compiler/mlir/lite/schema/schema.fbs``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hedgerow.errors import UsageError
from hedgerow.registry.manifest import Tensor

IDENTIFIER: Final = b"TFL3"
VERSION: Final = 3
# TensorType of the schema, as Open Inference Protocol v2 spells it; complex numbers, resources and 4-bit have no name.
_TYPES: Final = {
    0: "FP32", 1: "FP16", 2: "INT32", 3: "UINT8", 4: "INT64", 5: "BYTES", 6: "BOOL", 7: "INT16", 9: "INT8", 10: "FP64",
    12: "UINT64", 15: "UINT32", 16: "UINT16",
}  # fmt: skip
_MODEL_VERSION, _MODEL_SUBGRAPHS = 0, 2
_SUBGRAPH_TENSORS, _SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS = 0, 1, 2
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_SIGNATURE = 0, 1, 3, 7


@dataclass(frozen=True)
class TfliteFacts:
    """``version`` of the schema; tensors at the border of the first subgraph, -1 for a free dimension."""

    version: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def read(path: Path) -> TfliteFacts:
    """Read the file's facts.

    Raises:
        UsageError: missing, no TensorFlow Lite file, damaged, of another schema, or with a tensor of no usual type.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError("no file here", where=str(path), next_step="give the path of a .tflite file") from error
    if data[4:8] != IDENTIFIER:
        raise UsageError(
            f"not a TensorFlow Lite file: {data[4:8]!r} stands where {IDENTIFIER!r} should",
            where=str(path),
            next_step="give the path of a .tflite file",
        )
    try:
        return _facts(data, path)
    except (struct.error, IndexError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            f"the TensorFlow Lite file is damaged: {error}", where=str(path), next_step="fetch or convert it again"
        ) from error


def _facts(data: bytes, path: Path) -> TfliteFacts:
    model = _Table(data, _u32(data, 0))
    version = model.number(_MODEL_VERSION, "<I", 0)
    if version != VERSION:
        raise UsageError(
            f"the file has schema version {version}; {VERSION} is what runtimes read",
            where=str(path),
            next_step="convert the model again with a current TensorFlow",
        )
    graphs = model.tables(_MODEL_SUBGRAPHS)
    if not graphs:
        raise UsageError("the file holds no graph", where=str(path), next_step="convert the model again")
    tensors = graphs[0].tables(_SUBGRAPH_TENSORS)

    def border(field: int) -> tuple[Tensor, ...]:
        return tuple(_tensor(tensors[index], path) for index in graphs[0].numbers(field))

    return TfliteFacts(version, border(_SUBGRAPH_INPUTS), border(_SUBGRAPH_OUTPUTS))


def _tensor(table: _Table, path: Path) -> Tensor:
    name, kind = table.text(_TENSOR_NAME), table.number(_TENSOR_TYPE, "<b", 0)
    if kind not in _TYPES:
        raise UsageError(
            f"tensor {name!r} has type {kind}, which no protocol of ours can carry",
            where=str(path),
            next_step="convert the model with float32, int8 or uint8 inputs and outputs",
        )
    # The signature keeps -1 where the shape has 1 for a free dimension.
    shape = table.numbers(_TENSOR_SIGNATURE) or table.numbers(_TENSOR_SHAPE)
    return Tensor(name, _TYPES[kind], tuple(shape))  # type: ignore[arg-type]


class _Table:
    """A FlatBuffer table at ``position``; reading past the end raises struct.error."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data, self._position = data, position
        self._vtable = position - int(struct.unpack_from("<i", data, position)[0])
        if self._vtable < 0:
            raise IndexError("a table lies before the file")
        self._size = _u16(data, self._vtable)

    def _field(self, number: int) -> int | None:
        at = 4 + 2 * number
        if at + 2 > self._size:
            return None
        offset = _u16(self._data, self._vtable + at)
        return self._position + offset if offset else None

    def number(self, number: int, kind: str, default: int) -> int:
        at = self._field(number)
        return default if at is None else int(struct.unpack_from(kind, self._data, at)[0])

    def text(self, number: int) -> str:
        start, count = self._vector(number)
        return self._data[start : start + count].decode()

    def numbers(self, number: int) -> list[int]:
        start, count = self._vector(number)
        return list(struct.unpack_from(f"<{count}i", self._data, start)) if count else []

    def tables(self, number: int) -> list[_Table]:
        start, count = self._vector(number)
        places = range(start, start + 4 * count, 4)
        return [_Table(self._data, at + _u32(self._data, at)) for at in places]

    def _vector(self, number: int) -> tuple[int, int]:
        at = self._field(number)
        if at is None:
            return 0, 0
        start = at + _u32(self._data, at)
        count = _u32(self._data, start)
        if count > len(self._data):
            raise IndexError(f"a list of {count} entries in a file of {len(self._data)} bytes")
        return start + 4, count


def _u16(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<H", data, at)[0])


def _u32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])
