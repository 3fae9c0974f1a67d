"""Set the smallest weights to zero.

Unstructured, by magnitude, per matrix (Han et al. 2015, "Learning both Weights and Connections"). On these kernels it
saves no time: zeros are multiplied like other numbers. What it saves is bytes on the way to a device, because zeros
compress, and it costs accuracy: validate before release.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

_PRUNED: Final = ("MatMul", "Gemm", "Conv", "ConvTranspose")


def prune(model: onnx.ModelProto, share: float) -> float:
    """Zero the ``share`` (0 to 1) of smallest weights of every matrix in ``model``; return the share of all that is 0.

    Biases, norms and embeddings are left alone. The answer counts zeros of the matrices looked at; 0.0 without one.
    """
    names = {node.input[1] for node in model.graph.node if node.op_type in _PRUNED and len(node.input) > 1}
    zeros = total = 0
    for tensor in model.graph.initializer:
        if tensor.name not in names or tensor.data_type != TensorProto.FLOAT:
            continue
        pruned = smallest_to_zero(numpy_helper.to_array(tensor), share)
        tensor.CopyFrom(numpy_helper.from_array(pruned, tensor.name))
        zeros += int(np.count_nonzero(pruned == 0))
        total += pruned.size
    return zeros / total if total else 0.0


def smallest_to_zero(weights: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """A copy in which exactly ``floor(share * size)`` values of least magnitude are 0; of equal ones the first go."""
    flat = weights.ravel().copy()
    count = int(share * flat.size)
    flat[np.argsort(np.abs(flat), kind="stable")[:count]] = 0
    return flat.reshape(weights.shape)
