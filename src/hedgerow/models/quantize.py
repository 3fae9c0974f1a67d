"""Block quantization of weight matrices for ``MatMulNBits`` and ``GatherBlockQuantized``.

A matrix ``(out features N, in features K)`` is cut along K into blocks; each block has a float32 scale and, where it
is not symmetric, an *integer* zero point: ``weight = (value - zero_point) * scale``. Float zero points exist in the
operator too and cost two orders of magnitude in speed on CPUs: they take a fallback that unpacks the matrix.

Offsets
-------
GGUF's Q4_1 stores ``weight = scale * value + minimum`` with a float minimum. Rounding that to an integer zero point
shifts all 32 weights of a block the same way, by up to half a step, and such an error adds up over the block instead
of cancelling: it costs as much perplexity as the first quantization did. So a scheme with ``offsets`` keeps the
values as they are and carries what the zero point missed beside them. Per block that is one number ``o``, and
``sum((w + o) * x) = sum(w * x) + o * sum(x)``: the matrix gets one more column per block, holding ``o`` (quantized like
any weight), and the activations get as many more entries, the sums of their blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits

_QUANTIZERS: Final = {4: quantize_matmul_4bits, 8: quantize_matmul_8bits}
_NIBBLE: Final = 4
_MAX_NIBBLE: Final = 15


@dataclass(frozen=True)
class BlockScheme:
    """How one matrix is quantized.

    ``bits`` 4 or 8; ``block_size`` in weights, a power of two from 16 on. ``offsets`` (4 bits and asymmetric only)
    applies where the blocks fill the rows; other matrices are quantized without.
    """

    bits: int = 4
    block_size: int = 32
    symmetric: bool = True
    offsets: bool = False

    def has_offsets(self, columns: int) -> bool:
        """Whether a matrix with so many in features gets offset columns."""
        return self.offsets and columns % self.block_size == 0


@dataclass(frozen=True)
class QuantizedMatrix:
    """``values`` (N, blocks, block * bits / 8) uint8, low bits first; ``scales`` (N, blocks) float32.

    ``columns`` counts in features, offset columns included. ``zero_points`` (N, ceil(blocks * bits / 8)) uint8 is
    packed as the values are, and None where the scheme is symmetric (the operator then takes ``2 ** (bits - 1)``).
    """

    rows: int
    columns: int
    scheme: BlockScheme
    values: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None

    def dequantize(self) -> NDArray[np.float32]:
        """Return the ``(rows, columns)`` matrix that the operator computes with."""
        bits, blocks = self.scheme.bits, self.scales.shape[1]
        values = unpack(self.values.reshape(self.rows, -1), bits).reshape(self.rows, blocks, -1)
        if self.zero_points is None:
            zero_points = np.full((self.rows, blocks), 1 << (bits - 1), dtype=np.float32)
        else:
            zero_points = unpack(self.zero_points, bits)[:, :blocks].astype(np.float32)
        weights = (values - zero_points[:, :, None]) * self.scales[:, :, None]
        return weights.reshape(self.rows, -1)[:, : self.columns].astype(np.float32)


def quantize(weights: NDArray[np.float32], scheme: BlockScheme) -> QuantizedMatrix:
    """Quantize ``(N, K)`` weights; with offsets the result has ``K + K / block_size`` columns."""
    if scheme.has_offsets(weights.shape[1]):
        return _quantize_with_offsets(weights, scheme)
    return _round_to_nearest(weights, scheme)


def _round_to_nearest(weights: NDArray[np.float32], scheme: BlockScheme) -> QuantizedMatrix:
    """Onnxruntime's own block quantizer: each block's range, zero included, in ``2 ** bits`` steps."""
    rows, columns = weights.shape
    block, bits = scheme.block_size, scheme.bits
    blocks = -(-columns // block)
    # The quantizer takes the matrix as (K, N), K filled up to whole blocks.
    transposed = np.zeros((blocks * block, rows), dtype=np.float32)
    transposed[:columns] = weights.T
    values = np.zeros((rows, blocks, block * bits // 8), dtype=np.uint8)
    scales = np.zeros((rows, blocks), dtype=np.float32)
    zero_points = np.zeros((rows, -(-blocks * bits // 8)), dtype=np.uint8)
    _QUANTIZERS[bits](values, transposed, scales, zero_points, block, rows, columns, scheme.symmetric)
    return QuantizedMatrix(rows, columns, scheme, values, scales, None if scheme.symmetric else zero_points)


def _quantize_with_offsets(weights: NDArray[np.float32], scheme: BlockScheme) -> QuantizedMatrix:
    """Each block's range, zero *not* included, in 16 steps: a Q4_1 block comes back value for value."""
    rows, columns = weights.shape
    blocks = weights.reshape(rows, -1, scheme.block_size)
    low, high = blocks.min(axis=-1, keepdims=True), blocks.max(axis=-1, keepdims=True)
    step = (high - low) / np.float32(_MAX_NIBBLE)
    step[step == 0] = 1  # a block of equal weights is all offset
    values = np.rint((blocks - low) / step)
    zero_points = np.clip(np.rint(-low / step), 0, _MAX_NIBBLE)
    missed = (blocks - step * (values - zero_points)).mean(axis=-1, dtype=np.float32)

    plain = BlockScheme(scheme.bits, scheme.block_size, symmetric=False)
    offsets = _round_to_nearest(missed, plain)
    assert offsets.zero_points is not None  # noqa: S101 -- asymmetric schemes have them
    offset_zero_points = unpack(offsets.zero_points, _NIBBLE)[:, : offsets.scales.shape[1]]
    return QuantizedMatrix(
        rows,
        columns + missed.shape[1],
        scheme,
        np.concatenate([_pack(values.astype(np.uint8)), offsets.values], axis=1),
        np.concatenate([step[:, :, 0], offsets.scales], axis=1),
        _pack(np.concatenate([zero_points[:, :, 0].astype(np.uint8), offset_zero_points], axis=1)),
    )


def _pack(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two values of 4 bits a byte along the last axis, the first one low; an odd end is filled with zero."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)
    return np.asarray(values[..., 0::2] | (values[..., 1::2] << _NIBBLE), dtype=np.uint8)


def unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Spread ``(rows, bytes)`` into ``(rows, values)``, low bits first; 4 or 8 bits."""
    if bits != _NIBBLE:
        return packed
    return np.stack([packed & 0x0F, packed >> _NIBBLE], axis=-1).reshape(packed.shape[0], -1)
