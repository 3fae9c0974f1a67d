"""Types of tensors, as recipes spell them, and how many bytes of a tensor belong together."""

from __future__ import annotations

from typing import Final

# NumPy's names, and for packed 4-bit integers those of ONNX.
ITEM_BYTES: Final = {
    "bool": 1, "int4": 1, "uint4": 1, "int8": 1, "uint8": 1, "float8": 1,
    "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2,
    "int32": 4, "uint32": 4, "float32": 4,
    "int64": 8, "uint64": 8, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip

# GGUF: bytes of one block of weights with its scales, and weights in it, by type number. From ggml-common.h
# (https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h); a test compares them with the `gguf` package.
GGUF: Final[dict[int, tuple[str, int, int]]] = {
    0: ("float32", 4, 1), 1: ("float16", 2, 1), 2: ("q4_0", 18, 32), 3: ("q4_1", 20, 32), 6: ("q5_0", 22, 32),
    7: ("q5_1", 24, 32), 8: ("q8_0", 34, 32), 10: ("q2_k", 84, 256), 11: ("q3_k", 110, 256), 12: ("q4_k", 144, 256),
    13: ("q5_k", 176, 256), 14: ("q6_k", 210, 256), 24: ("int8", 1, 1), 25: ("int16", 2, 1), 26: ("int32", 4, 1),
    27: ("int64", 8, 1), 28: ("float64", 8, 1), 30: ("bfloat16", 2, 1),
}  # fmt: skip
RECORD_BYTES: Final = {name: size for name, size, weights in GGUF.values() if weights > 1}

FLOATS: Final = frozenset({"float16", "bfloat16", "float32", "float64", "complex64", "complex128"})


def unit(dtype: str) -> int:
    """Bytes that must not be torn apart: an element, or a block of quantized weights with its scales."""
    return RECORD_BYTES.get(dtype) or ITEM_BYTES.get(dtype, 1)
