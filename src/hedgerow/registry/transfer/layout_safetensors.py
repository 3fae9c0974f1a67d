"""safetensors: eight bytes of header length, a JSON header, then the tensors.

https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from hedgerow.registry.transfer.dtypes import ITEM_BYTES
from hedgerow.registry.transfer.reading import DamagedError, Window
from hedgerow.registry.transfer.recipe import MAX_FILE_BYTES, Tensor

# The format allows 100 MB; 4 MiB name some 40,000 tensors, and a device decodes them beside all else.
MAX_HEADER_BYTES: Final = 4 << 20
_LENGTH_BYTES: Final = 8
_DTYPES: Final = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E4M3": "float8", "F8_E5M2": "float8",
    "U16": "uint16", "I16": "int16", "F16": "float16", "BF16": "bfloat16",
    "U32": "uint32", "I32": "int32", "F32": "float32", "U64": "uint64", "I64": "int64", "F64": "float64",
}  # fmt: skip
_Position = Annotated[int, Meta(ge=0, le=MAX_FILE_BYTES)]


class _Entry(msgspec.Struct):
    """A tensor's entry; ``__metadata__`` has none of these fields."""

    dtype: str = ""
    data_offsets: tuple[_Position, _Position] = (0, 0)


def read(window: Window) -> dict[str | None, list[Tensor]]:
    """Every tensor of the file.

    Raises:
        DamagedError: no safetensors file.
    """
    length = window.number(0, "Q")
    if length > MAX_HEADER_BYTES:
        raise DamagedError(f"a header of {length} bytes")
    try:
        entries = msgspec.json.decode(window.read(_LENGTH_BYTES, length), type=dict[str, _Entry])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(str(error)) from error
    start = _LENGTH_BYTES + length
    found = []
    for name, entry in entries.items():
        begin, end = entry.data_offsets
        dtype = _DTYPES.get(entry.dtype, "uint8")
        if begin < end and (end - begin) % ITEM_BYTES[dtype] == 0:
            found.append(Tensor(name, dtype, start + begin, end - begin))
    return {None: found}
