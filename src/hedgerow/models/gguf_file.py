"""Read a GGUF file: metadata and dequantized tensors, with errors that name the file.

The header is parsed here rather than by ``gguf.GGUFReader`` for two reasons: the
reader answers a truncated download with a NumPy reshape error, and it takes 2 s
for a 49,152-token vocabulary where this takes 0.2. The arithmetic (block layouts
and dequantization) is the ``gguf`` package's.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (version 2 and 3,
little endian).
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import gguf
import numpy as np
from numpy.typing import NDArray

from hedgerow.errors import UsageError

MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_DEFAULT_ALIGNMENT: Final = 32
# struct codes of the scalar value types, by the numbers of gguf.GGUFValueType.
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING: Final = 8
_ARRAY: Final = 9
_AGAIN: Final = "fetch the file again, and compare its size with the publisher's"


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: ``shape`` outermost dimension first, ``offset`` from the start of the file, bytes."""

    name: str
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    offset: int
    size: int


class _Cursor:
    """Little-endian reads that report a file's end as what it is: a truncated file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.position = 0

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.data):
            raise UsageError(
                f"the GGUF file is truncated: its header needs {end:,} bytes or more, the file has {len(self.data):,}",
                where=str(self.path),
                next_step=_AGAIN,
            )
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        # Token lists may hold bytes that are no UTF-8; they must survive the round trip.
        return self.take(self.scalar("Q")).decode("utf-8", errors="surrogateescape")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            item, count = self.scalar("I"), self.scalar("Q")
            if item in _SCALARS:
                code = _SCALARS[item]
                return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize("<" + code))))
            return [self.value(item) for _ in range(count)]
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        raise UsageError(
            f"the GGUF file holds a metadata value of unknown type {kind}",
            where=f"{self.path}, byte {self.position}",
            next_step=_AGAIN,
        )


class GgufFile:
    """An open GGUF file; use it as a context manager.

    ``metadata`` maps keys to Python values, ``tensors`` names to ``TensorInfo``.

    Raises:
        UsageError: missing, not GGUF, an unknown version, truncated (with expected and actual size), or a tensor
            of a type that the ``gguf`` package does not know.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise UsageError("no GGUF file here", where=str(path), next_step="give the path of a .gguf file") from error
        except ValueError as error:  # mmap refuses an empty file
            raise UsageError("the GGUF file is empty", where=str(path), next_step=_AGAIN) from error
        try:
            self._read_header()
        except BaseException:
            self._data.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._data.close()

    def _read_header(self) -> None:
        cursor = _Cursor(self.path, self._data)
        magic = bytes(self._data[:4])
        if magic != MAGIC:
            raise UsageError(
                f"not a GGUF file: it starts with {magic!r}, not {MAGIC!r}",
                where=str(self.path),
                next_step="give the path of a .gguf file",
            )
        cursor.take(4)
        version = cursor.scalar("I")
        if version not in _VERSIONS:
            raise UsageError(
                f"GGUF version {version} is not supported; this reads {' and '.join(map(str, _VERSIONS))}",
                where=str(self.path),
                next_step="convert the checkpoint with a current llama.cpp",
            )
        tensor_count, key_count = cursor.scalar("Q"), cursor.scalar("Q")
        self.metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = cursor.string()
            self.metadata[key] = cursor.value(cursor.scalar("I"))
        raw = [self._read_tensor_info(cursor) for _ in range(tensor_count)]
        alignment = int(self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT))
        start = -(-cursor.position // alignment) * alignment
        self.tensors = {name: self._place(name, shape, kind, start + offset) for name, shape, kind, offset in raw}
        expected = max((tensor.offset + tensor.size for tensor in self.tensors.values()), default=start)
        if expected > len(self._data):
            raise UsageError(
                f"the GGUF file is truncated: its tensors need {expected:,} bytes, the file has {len(self._data):,}",
                where=str(self.path),
                next_step=_AGAIN,
            )

    @staticmethod
    def _read_tensor_info(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
        name = cursor.string()
        dimensions = [cursor.scalar("Q") for _ in range(cursor.scalar("I"))]
        return name, tuple(reversed(dimensions)), cursor.scalar("I"), cursor.scalar("Q")

    def _place(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> TensorInfo:
        try:
            quantization = gguf.GGMLQuantizationType(kind)
            block, block_bytes = gguf.GGML_QUANT_SIZES[quantization]
        except (ValueError, KeyError) as error:
            raise UsageError(
                f"tensor {name} has the unknown type {kind}",
                where=str(self.path),
                next_step="quantize the checkpoint as Q8_0, Q4_1, Q4_0, F16 or F32",
            ) from error
        return TensorInfo(name, shape, quantization, offset, prod(shape) // block * block_bytes)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Return the named tensor as a float32 copy of its shape.

        Raises:
            UsageError: no such tensor, or its quantization cannot be undone by the ``gguf`` package.
        """
        info = self.tensors.get(name)
        if info is None:
            raise UsageError(f"the checkpoint has no tensor {name}", where=str(self.path), next_step=_AGAIN)
        raw = self.raw(name)
        byte_shape = gguf.quant_shape_to_byte_shape(info.shape, info.type)
        try:
            values = gguf.dequantize(raw.reshape(byte_shape), info.type)
        except NotImplementedError as error:
            raise UsageError(
                f"tensor {name} is quantized as {info.type.name}, which the gguf package cannot undo",
                where=str(self.path),
                next_step="quantize the checkpoint as Q8_0, Q4_1, Q4_0, F16 or F32",
            ) from error
        return np.ascontiguousarray(values.reshape(info.shape), dtype=np.float32)

    def raw(self, name: str) -> NDArray[np.uint8]:
        """Return the bytes of the named tensor, which must be there, as the file has them."""
        info = self.tensors[name]
        return np.frombuffer(self._data[info.offset : info.offset + info.size], dtype=np.uint8)
