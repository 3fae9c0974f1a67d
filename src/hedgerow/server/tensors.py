"""Tensors as Open Inference Protocol v2 writes them: names of data types, JSON values, raw bytes.

Source: KServe, "Open Inference Protocol", sections "Tensor Data" and "Tensor Data Types"; the binary form is Triton's
"Binary Tensor Data Extension": little-endian, row-major, BYTES elements with a 4-byte length before each.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow.server.errors import BadRequest

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(np.object_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def dtype_of(datatype: str, *, name: str) -> np.dtype[Any]:
    """NumPy's type for a protocol's one.

    Raises:
        BadRequest: unknown.
    """
    try:
        return DTYPES[datatype]
    except KeyError:
        raise BadRequest(f"input '{name}' has datatype '{datatype}'; known: {', '.join(DTYPES)}", field=name) from None


def datatype_of(array: NDArray[np.generic]) -> str:
    """The protocol's name for an array's type."""
    return "BYTES" if array.dtype.kind in "OSU" else _NAMES[array.dtype.newbyteorder("<")]


def from_json(data: list[Any], datatype: str, shape: Sequence[int], *, name: str) -> NDArray[np.generic]:
    """An array of ``data``, flat or nested in row-major order.

    Raises:
        BadRequest: a value does not fit the type, or their number the shape.
    """
    dtype = dtype_of(datatype, name=name)
    _check_shape(shape, name=name)
    try:
        if datatype == "BYTES":
            flat = [item.encode() if isinstance(item, str) else item for item in _flatten(data)]
            array = np.empty(len(flat), dtype=np.object_)
            array[:] = flat
        else:
            array = np.asarray(data, dtype=dtype).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRequest(f"input '{name}' does not hold {datatype} values: {error}", field=name) from error
    return _shaped(array, shape, name=name)


def from_bytes(raw: memoryview, datatype: str, shape: Sequence[int], *, name: str) -> NDArray[np.generic]:
    """An array over ``raw`` without copying (except BYTES).

    Raises:
        BadRequest: the number of bytes does not fit type and shape.
    """
    dtype = dtype_of(datatype, name=name)
    _check_shape(shape, name=name)
    if datatype == "BYTES":
        return _shaped(_bytes_elements(raw, name=name), shape, name=name)
    wanted = math.prod(shape) * dtype.itemsize
    if len(raw) != wanted:
        raise BadRequest(
            f"input '{name}' has {len(raw)} bytes; {datatype} of shape {list(shape)} has {wanted}", field=name
        )
    return np.frombuffer(raw, dtype=dtype).reshape(shape)


def to_json(array: NDArray[np.generic]) -> list[Any]:
    """Flat values in row-major order; bytes become text."""
    if datatype_of(array) == "BYTES":
        return [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in array.ravel()]
    values: list[Any] = array.ravel().tolist()
    return values


def to_bytes(array: NDArray[np.generic]) -> bytes:
    """The binary form."""
    if datatype_of(array) == "BYTES":
        items = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel()]
        return b"".join(struct.pack("<I", len(item)) + item for item in items)
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _bytes_elements(raw: memoryview, *, name: str) -> NDArray[np.generic]:
    items: list[bytes] = []
    place = 0
    while place < len(raw):
        if place + 4 > len(raw):
            raise BadRequest(f"input '{name}' ends inside an element's length", field=name)
        (length,) = struct.unpack_from("<I", raw, place)
        place += 4
        if place + length > len(raw):
            raise BadRequest(f"input '{name}' ends inside an element of {length} bytes", field=name)
        items.append(bytes(raw[place : place + length]))
        place += length
    array = np.empty(len(items), dtype=np.object_)
    array[:] = items
    return array


def _shaped(array: NDArray[np.generic], shape: Sequence[int], *, name: str) -> NDArray[np.generic]:
    if array.size != math.prod(shape):
        raise BadRequest(
            f"input '{name}' has {array.size} values; shape {list(shape)} wants {math.prod(shape)}", field=name
        )
    return array.reshape(shape)


def _check_shape(shape: Sequence[int], *, name: str) -> None:
    if any(size < 0 for size in shape):
        raise BadRequest(f"input '{name}' has shape {list(shape)}; sizes are not negative", field=name)


def _flatten(data: Any) -> list[Any]:
    if not isinstance(data, list):
        return [data]
    return [item for part in data for item in _flatten(part)]
