"""Tensors as Open Inference Protocol v2 writes them: names of data types, JSON values, raw bytes.

Source: KServe, "Open Inference Protocol", sections "Tensor Data" and "Tensor Data Types"; the binary form is Triton's
"Binary Tensor Data Extension": little-endian, row-major, BYTES elements with a 4-byte length before each.

NumPy has no bfloat16: BF16 arrays hold the 16 bits under a type of their own (``BF16``).
"""

from __future__ import annotations

import functools
import math
import re
import struct
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedgerow.server.errors import BadRequest

BF16 = np.dtype([("bfloat16", "<u2")])
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
    "BF16": BF16,
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(np.object_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# numpy.ndarray's own limit is 64; no model comes near this one.
_MAX_RANK = 16
# numpy.intp's, and that of the protocol's own field (int64). Python writes no number of more than 4,300 digits, so a
# product of sizes without bound could not even be named in an error.
_MAX_SIZE = 2**63 - 1
# What msgspec can hold integers to; numpy refuses what is outside of the 64-bit types.
_BOUNDED = {"INT8": 8, "INT16": 16, "INT32": 32, "UINT8": 8, "UINT16": 16, "UINT32": 32}
_LENGTH = struct.Struct("<I")
# So few bytes are copied in less time than an array is made to look like bytes.
_COPIED = 16 * 1024
_OPENING = re.compile(rb"\s*((?:\[\s*)+)")


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
    known = _NAMES.get(array.dtype)
    if known is not None:
        return known
    return "BYTES" if array.dtype.kind in "SU" else _NAMES[array.dtype.newbyteorder("<")]


def from_json(data: bytes | msgspec.Raw, datatype: str, shape: Sequence[int], *, name: str) -> NDArray[np.generic]:
    """An array of the JSON text ``data``: its values in row-major order, flat or nested as ``shape`` says.

    Each value must be of the data type as JSON writes it and in its range; nothing is rounded but fractions.

    Raises:
        BadRequest: naming the input, and where it can be told the value.
    """
    dtype = dtype_of(datatype, name=name)
    _check_shape(shape, name=name)
    depth = _depth(data)
    if depth > 1 and depth != len(shape):
        raise BadRequest(f"input '{name}' is nested {depth} deep; its shape {list(shape)} has {len(shape)}", field=name)
    try:
        values = msgspec.json.decode(data, type=_json_type(datatype, depth))
        array = _array(values, datatype, dtype)
    except (msgspec.DecodeError, OverflowError, ValueError) as error:
        raise BadRequest(f"input '{name}' does not hold {datatype} values: {error}", field=name) from error
    if depth > 1 and array.shape != tuple(shape):
        raise BadRequest(f"input '{name}' is nested as {_shown(array.shape)}; its shape is {list(shape)}", field=name)
    return _shaped(array.reshape(-1), shape, name=name)


def from_values(values: Sequence[Any], datatype: str, shape: Sequence[int], *, name: str) -> NDArray[np.generic]:
    """The same from Python values."""
    return from_json(msgspec.json.encode(values), datatype, shape, name=name)


def from_bytes(raw: memoryview, datatype: str, shape: Sequence[int], *, name: str) -> NDArray[np.generic]:
    """An array over ``raw`` without copying, except BYTES and what begins at an odd address.

    Raises:
        BadRequest: the number of bytes does not fit type and shape.
    """
    dtype = dtype_of(datatype, name=name)
    _check_shape(shape, name=name)
    if datatype == "BYTES":
        return _shaped(_bytes_elements(raw, math.prod(shape), name=name), shape, name=name)
    wanted = math.prod(shape) * dtype.itemsize
    if len(raw) != wanted:
        raise BadRequest(
            f"input '{name}' has {len(raw)} bytes; {datatype} of shape {list(shape)} has {wanted}", field=name
        )
    if datatype == "BOOL" and len(raw) and max(raw) > 1:
        raise BadRequest(f"input '{name}' does not hold BOOL values: a byte is {max(raw)}, not 0 or 1", field=name)
    array = _shaped(np.frombuffer(raw, dtype=dtype), shape, name=name)
    # The runtimes' kernels may count on it; where the tensor begins is the sender's choice.
    return array if array.flags.aligned else array.copy()


def to_json(array: NDArray[np.generic], *, name: str) -> list[Any]:
    """Flat values in row-major order; bytes become text, what is not finite null.

    Raises:
        BadRequest: bytes that are no text.
    """
    if datatype_of(array) == "BYTES":
        try:
            return [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
        except UnicodeDecodeError as error:
            raise BadRequest(
                f"output '{name}' is no UTF-8, which JSON needs: ask for binary_data", field=name
            ) from error
    if array.dtype == BF16:
        array = widened(array)
    values: list[Any] = array.ravel().tolist()
    return values


def to_bytes(array: NDArray[np.generic]) -> bytes:
    """The binary form."""
    return bytes(to_buffer(array))


def to_buffer(array: NDArray[np.generic]) -> bytes | memoryview:
    """The same without copying, where the array's memory is that form already and there is much of it."""
    if datatype_of(array) == "BYTES":
        items = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel()]
        return b"".join(struct.pack("<I", len(item)) + item for item in items)
    if array.nbytes <= _COPIED and _NAMES.get(array.dtype) is not None:  # little-endian as it is
        return array.tobytes()
    values = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return values.reshape(-1).view(np.uint8).data


@functools.cache
def _json_type(datatype: str, depth: int) -> Any:
    """What msgspec should decode: its C code then checks every value, and says which one is wrong."""
    bits = _BOUNDED.get(datatype)
    kind: Any = int
    if datatype == "BOOL":
        kind = bool
    elif datatype == "BYTES":
        kind = str
    elif datatype in {"FP16", "BF16", "FP32", "FP64"}:
        kind = float
    elif bits is not None and datatype.startswith("U"):
        kind = Annotated[int, msgspec.Meta(ge=0, le=2**bits - 1)]
    elif bits is not None:
        kind = Annotated[int, msgspec.Meta(ge=-(2 ** (bits - 1)), le=2 ** (bits - 1) - 1)]
    for _ in range(depth):
        kind = list[kind]
    return kind


def _array(values: Any, datatype: str, dtype: np.dtype[Any]) -> NDArray[np.generic]:
    if datatype == "BYTES":
        return np.array(values, dtype=np.object_)
    if dtype.kind not in "fV":
        return np.array(values, dtype=dtype)
    with np.errstate(over="ignore"):  # said in our own words below
        array = np.array(values, dtype=np.float32 if dtype == BF16 else dtype)
    if dtype == BF16:
        array = _rounded_to_bf16(array)
    finite = np.isfinite(array if dtype != BF16 else widened(array))
    if not finite.all():
        raise OverflowError(f"the value at {int(np.argmin(finite.reshape(-1)))} is out of range")
    return array


def _rounded_to_bf16(array: NDArray[np.float32]) -> NDArray[np.generic]:
    """The upper half of the bits, rounded to the nearest, ties to even."""
    bits = array.view(np.uint32).astype(np.uint64)
    upper = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return upper.astype("<u2").view(BF16)


def widened(array: NDArray[np.generic]) -> NDArray[np.float32]:
    """BF16 as float32."""
    return (array.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _depth(data: bytes | msgspec.Raw) -> int:
    """How deep the first value is nested; 1 for what is no list, which decoding then refuses."""
    opening = _OPENING.match(memoryview(data))
    return 1 if opening is None else min(opening[1].count(b"["), _MAX_RANK + 1)


def _bytes_elements(raw: memoryview, count: int, *, name: str) -> NDArray[np.generic]:
    """``count`` elements; nothing is made for more than there can be, whatever ``count`` says."""
    data, end, place = bytes(raw), len(raw), 0
    items: list[bytes] = []
    length_at = _LENGTH.unpack_from
    while place < end:
        if place + 4 > end:
            raise BadRequest(f"input '{name}' ends inside an element's length", field=name)
        (length,) = length_at(data, place)
        place += 4
        if place + length > end:
            raise BadRequest(f"input '{name}' ends inside an element of {length} bytes", field=name)
        if len(items) == count:
            raise BadRequest(f"input '{name}' has more than the {count} values of its shape", field=name)
        items.append(data[place : place + length])
        place += length
    array = np.empty(len(items), dtype=np.object_)
    array[:] = items
    return array


def _shaped(array: NDArray[np.generic], shape: Sequence[int], *, name: str) -> NDArray[np.generic]:
    if array.size != math.prod(shape):
        raise BadRequest(
            f"input '{name}' has {array.size} values; shape {list(shape)} wants {math.prod(shape)}", field=name
        )
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError) as error:  # nought times what no address space holds
        raise BadRequest(f"input '{name}' has shape {list(shape)}, which is too large", field=name) from error


def _check_shape(shape: Sequence[int], *, name: str) -> None:
    if len(shape) > _MAX_RANK:
        raise BadRequest(f"input '{name}' has {len(shape)} dimensions; {_MAX_RANK} are allowed", field=name)
    if not shape:
        return
    if min(shape) < 0:
        raise BadRequest(f"input '{name}' has shape {list(shape)}; sizes are not negative", field=name)
    if max(shape) > _MAX_SIZE:
        raise BadRequest(f"input '{name}' has shape {list(shape)}, which is too large", field=name)


def _shown(shape: tuple[int, ...]) -> str:
    return "no regular shape" if len(shape) == 0 else str(list(shape))
