"""Take the quantized blocks of a GGUF file as they are, in the terms of ``MatMulNBits``.

The operator computes ``(value - zero_point) * scale`` with an *integer* zero point. Block by block of 32 weights:

=====  ============================  =====================================================
type   weight                        here
=====  ============================  =====================================================
Q8_0   ``d * q``, q signed           8 bits, value ``q + 128``, zero point 128
Q5_0   ``d * (q - 16)``              8 bits, value ``q + 112``, zero point 128
Q4_0   ``d * (q - 8)``               4 bits, zero point 8
Q5_1   ``d * q + m``                 8 bits, zero point ``z = round(-m / d)``, rest ``m + d * z``
Q4_1   ``d * q + m``                 4 bits, the same
=====  ============================  =====================================================

The rest of a block is one float32 that all its weights share, so it comes back as ``rest * sum(x of the block)``: one
small matrix product beside the large one. Nothing is rounded again, but for float32's last bit.

Layouts of the blocks: ``ggml-common.h`` of https://github.com/ggml-org/ggml (``block_q4_1`` and its neighbours).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from hedgerow.errors import UsageError
from hedgerow.models.gguf_file import GgufFile
from hedgerow.models.llama import LlamaCheckpoint, rotary_order

BLOCK: Final = 32
_NIBBLE: Final = 4
_BYTE: Final = 8
_PLAIN: Final = (Type.F32, Type.F16, Type.BF16)
KNOWN: Final = (Type.Q8_0, Type.Q5_0, Type.Q5_1, Type.Q4_0, Type.Q4_1)

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class ExactMatrix:
    """``values`` (rows, columns), one a byte; ``scales``, ``zero_points`` and ``rest`` (rows, blocks).

    ``weight = (value - zero_point) * scale + rest``; ``rest`` is None where it is zero throughout.
    """

    bits: int
    values: Bytes
    scales: Floats
    zero_points: Bytes
    rest: Floats | None

    @property
    def rows(self) -> int:
        return int(self.values.shape[0])

    @property
    def columns(self) -> int:
        return int(self.values.shape[1])

    @property
    def centred(self) -> bool:
        """Whether the zero point is the one that operators take where none is given."""
        return bool((self.zero_points == 1 << (self.bits - 1)).all())

    def packed(self) -> Bytes:
        """The values as the operators want them, ``(rows, blocks, bits * 4)``: low bits first."""
        return self._pack(self.values).reshape(self.rows, self.columns // BLOCK, -1)

    def packed_zero_points(self) -> Bytes:
        """``(rows, ceil(blocks * bits / 8))``."""
        return self._pack(self.zero_points)

    def _pack(self, values: Bytes) -> Bytes:
        if self.bits == _BYTE:
            return values
        if values.shape[1] % 2:
            values = np.concatenate([values, np.zeros_like(values[:, :1])], axis=1)
        return np.asarray(values[:, 0::2] | values[:, 1::2] << _NIBBLE, dtype=np.uint8)

    def take(self, rows: NDArray[np.intp]) -> ExactMatrix:
        """The same rows in another order."""
        rest = None if self.rest is None else self.rest[rows]
        return ExactMatrix(self.bits, self.values[rows], self.scales[rows], self.zero_points[rows], rest)

    def dequantize(self) -> Floats:
        """The ``(rows, columns)`` matrix that is computed with."""
        shape = (self.rows, -1, BLOCK)
        weights = self.values.reshape(shape).astype(np.float32) - self.zero_points[:, :, None].astype(np.float32)
        weights *= self.scales[:, :, None]
        if self.rest is not None:
            weights += self.rest[:, :, None]
        return weights.reshape(self.rows, -1)


def stack(parts: Sequence[ExactMatrix]) -> ExactMatrix:
    """Put matrices of one width under each other; the widest values decide the bits of all."""
    rests = [np.zeros_like(part.scales) if part.rest is None else part.rest for part in parts]
    return ExactMatrix(
        max(part.bits for part in parts),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate([part.zero_points for part in parts]),
        np.concatenate(rests) if any(part.rest is not None for part in parts) else None,
    )


def read(file: GgufFile, name: str) -> ExactMatrix | Floats:
    """Return tensor ``name``; as float32 where the file has it in a float type.

    Raises:
        UsageError: no such tensor, or a type whose blocks ``MatMulNBits`` cannot hold exactly.
    """
    info = file.tensors.get(name)
    if info is None or info.type in _PLAIN:
        return file.tensor(name)  # says what is missing
    if info.type not in KNOWN:
        raise UsageError(
            f"tensor {name} is quantized as {info.type.name}, which has no exact counterpart in MatMulNBits; "
            f"these have: {', '.join(sorted(kind.name for kind in KNOWN))}",
            where=str(file.path),
            next_step="import it without --exact (--quality faithful), or quantize the checkpoint as Q4_1 or Q8_0",
        )
    rows, columns = info.shape
    raw = file.raw(name).reshape(rows, columns // BLOCK, gguf.GGML_QUANT_SIZES[info.type][1])
    return _BLOCKS[info.type](raw)


def _half(raw: Bytes) -> Floats:
    """Two bytes at the start of each block, as float32, ``(rows, blocks)``."""
    return np.ascontiguousarray(raw[:, :, :2]).view(np.float16)[:, :, 0].astype(np.float32)


def _nibbles(raw: Bytes) -> Bytes:
    """16 bytes a block → 32 values: the low halves of all bytes first, then the high ones."""
    return np.concatenate([raw & 0x0F, raw >> _NIBBLE], axis=2)


def _fifth_bits(raw: Bytes) -> Bytes:
    """Four bytes a block → the fifth bit of each of its 32 values, as 0 or 16."""
    return np.left_shift(np.unpackbits(raw, axis=2, bitorder="little"), np.uint8(_NIBBLE))


def _flat(values: Bytes) -> Bytes:
    return values.reshape(values.shape[0], -1)


def _centred(bits: int, values: Bytes, scales: Floats) -> ExactMatrix:
    zero_points = np.full(scales.shape, 1 << (bits - 1), dtype=np.uint8)
    return ExactMatrix(bits, _flat(values), scales, zero_points, None)


def _with_minimum(bits: int, values: Bytes, scales: Floats, minimum: Floats) -> ExactMatrix:
    step, low = scales.astype(np.float64), minimum.astype(np.float64)
    nearest = np.rint(np.divide(-low, step, out=np.zeros_like(low), where=step != 0))
    zero_points = np.clip(nearest, 0, (1 << bits) - 1)
    rest = (low + step * zero_points).astype(np.float32)
    return ExactMatrix(bits, _flat(values), scales, zero_points.astype(np.uint8), rest)


def _q8_0(raw: Bytes) -> ExactMatrix:
    return _centred(8, np.bitwise_xor(raw[:, :, 2:], np.uint8(0x80)), _half(raw))  # a signed byte plus 128


def _q5_0(raw: Bytes) -> ExactMatrix:
    return _centred(8, (_nibbles(raw[:, :, 6:]) | _fifth_bits(raw[:, :, 2:6])) + np.uint8(112), _half(raw))


def _q5_1(raw: Bytes) -> ExactMatrix:
    values = _nibbles(raw[:, :, 8:]) | _fifth_bits(raw[:, :, 4:8])
    return _with_minimum(8, values, _half(raw), _half(raw[:, :, 2:]))


def _q4_0(raw: Bytes) -> ExactMatrix:
    return _centred(4, _nibbles(raw[:, :, 2:]), _half(raw))


def _q4_1(raw: Bytes) -> ExactMatrix:
    return _with_minimum(4, _nibbles(raw[:, :, 4:]), _half(raw), _half(raw[:, :, 2:]))


_BLOCKS: Final = {Type.Q8_0: _q8_0, Type.Q5_0: _q5_0, Type.Q5_1: _q5_1, Type.Q4_0: _q4_0, Type.Q4_1: _q4_1}


class ExactCheckpoint:
    """A checkpoint whose matrices are ``ExactMatrix``; norms and figures are the plain checkpoint's."""

    def __init__(self, plain: LlamaCheckpoint) -> None:
        self._plain = plain
        self._file = plain.file
        self.config = plain.config
        self.output_norm = plain.output_norm
        self.rotary_frequencies = plain.rotary_frequencies

    def embedding(self) -> ExactMatrix | Floats:
        return read(self._file, "token_embd.weight")

    def lm_head(self) -> ExactMatrix | Floats:
        return self.embedding() if self.config.tied_embeddings else read(self._file, "output.weight")

    def layer(self, index: int) -> dict[str, Any]:
        """As ``LlamaCheckpoint.layer``, with rows of queries and keys in the same order."""
        weights: dict[str, Any] = {}
        for name in self._plain.layer_names():
            found = read(self._file, f"blk.{index}.{name}.weight")
            heads = {"attn_q": self.config.heads, "attn_k": self.config.kv_heads}.get(name)
            if heads is not None:
                order = rotary_order(found.shape[0] if isinstance(found, np.ndarray) else found.rows, heads)
                found = found[order] if isinstance(found, np.ndarray) else found.take(order)
            weights[name] = found
        return weights
