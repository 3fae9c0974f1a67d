import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from hedgerow.models.quantize import BlockScheme, quantize


def weights_of(rows, columns, seed=1):
    return np.random.default_rng(seed).normal(0.02, 0.15, (rows, columns)).astype(np.float32)


def effective(matrix, columns):
    """The ``(rows, columns)`` matrix that values and offset columns amount to together."""
    whole = matrix.dequantize()
    block = matrix.scheme.block_size
    return whole[:, :columns] + np.repeat(whole[:, columns:], block, axis=1)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits, block", [(4, 16), (4, 32), (4, 64), (8, 32)])
@pytest.mark.parametrize("columns", [128, 96, 80])
def test_rounding_error_stays_within_half_a_step(bits, block, symmetric, columns):
    weights = weights_of(24, columns)
    matrix = quantize(weights, BlockScheme(bits, block, symmetric=symmetric))
    error = np.abs(matrix.dequantize() - weights)
    steps = np.abs(np.repeat(matrix.scales, block, axis=1)[:, :columns])
    # An asymmetric zero point is rounded as well, and a symmetric range ends a step early on one side.
    assert (error <= 1.01 * steps).all()
    assert np.sqrt((error**2).mean()) < 0.45 * steps.mean()


def test_offsets_give_a_q4_1_matrix_back():
    source = gguf.dequantize(gguf.quants.quantize(weights_of(64, 256), Type.Q4_1), Type.Q4_1)
    exact = quantize(source, BlockScheme(4, 32, symmetric=False, offsets=True))
    plain = quantize(source, BlockScheme(4, 32, symmetric=False))
    assert exact.columns == 256 + 8
    lost = np.sqrt(((effective(exact, 256) - source) ** 2).mean())
    lost_without = np.sqrt(((plain.dequantize() - source) ** 2).mean())
    # Half a step uniformly against a fifteenth of that.
    assert lost < lost_without / 10


def test_offsets_make_block_sums_right_where_plain_rounding_shifts_them():
    source = gguf.dequantize(gguf.quants.quantize(weights_of(64, 256), Type.Q4_1), Type.Q4_1)
    exact = effective(quantize(source, BlockScheme(4, 32, symmetric=False, offsets=True)), 256)
    plain = quantize(source, BlockScheme(4, 32, symmetric=False)).dequantize()
    shift, shift_without = (np.abs((m - source).reshape(64, 8, 32).sum(-1)).mean() for m in (exact, plain))
    assert shift < shift_without / 10


@pytest.mark.parametrize("value", [0.0, 0.5, -0.5])
def test_blocks_of_equal_weights_survive(value):
    weights = np.full((4, 64), value, dtype=np.float32)
    matrix = quantize(weights, BlockScheme(4, 32, symmetric=False, offsets=True))
    np.testing.assert_allclose(effective(matrix, 64), weights, atol=1e-6)


def test_weights_far_from_zero_survive():
    weights = weights_of(8, 64) + 10
    matrix = quantize(weights, BlockScheme(4, 32, symmetric=False, offsets=True))
    np.testing.assert_allclose(effective(matrix, 64), weights, atol=0.4)


def test_rows_that_blocks_do_not_fill_get_no_offsets():
    scheme = BlockScheme(4, 32, symmetric=False, offsets=True)
    assert quantize(weights_of(8, 80), scheme).columns == 80
