"""4-bit weights: matrix products become ``MatMulNBits``, everything else stays as it was.

The quantizer is ``hedgerow.models.quantize``, the one of GGUF imports; onnxruntime's own pass over a graph
(``matmul_nbits_quantizer``) needs a package (onnx-ir) that nothing else here does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hedgerow.models.onnx_file import CONTRIB
from hedgerow.models.quantize import BlockScheme, quantize
from hedgerow.models.quantize_files import drop_unused_weights, float_weights

# What MatMulNBits computes with: 4 is int8 activations, by measurement (docs/decisions/0002-model-import.md).
_ACCURACY_LEVEL: Final = 4
# MatMulNBits came with version 1 of onnxruntime's own domain.
_CONTRIB_VERSION: Final = 1
_MATRIX: Final = 2


def quantize_matrices(
    model: onnx.ModelProto, scheme: BlockScheme, *, keep: frozenset[str] = frozenset()
) -> tuple[int, list[str]]:
    """Replace the products with constant float32 matrices; return how many, and the names of those that stayed.

    A product stays where ``keep`` names its node, where its matrix is no constant of two dimensions, where it has
    fewer input features than a block (padding would make it larger than it was), or where a Gemm transposes its
    input or scales.
    """
    weights = float_weights(model)
    done: dict[tuple[str, bool], list[str]] = {}
    added: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    replaced, stayed = 0, []
    for node in model.graph.node:
        if node.op_type not in {"MatMul", "Gemm"}:
            nodes.append(node)
            continue
        matrix = _matrix(node, weights)
        if matrix is None or matrix.shape[1] < scheme.block_size or node.name in keep:
            stayed.append(node.name or node.output[0])
            nodes.append(node)
            continue
        key = (node.input[1], node.op_type == "Gemm" and _attribute(node, "transB", 0) == 1)
        if key not in done:
            done[key] = _constants(f"{node.input[1]}{'/t' if key[1] else ''}", matrix, scheme, added)
        nodes += _product(node, matrix, scheme, done[key])
        replaced += 1
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(added)
    drop_unused_weights(model)
    if replaced and all(each.domain != CONTRIB for each in model.opset_import):
        model.opset_import.append(helper.make_opsetid(CONTRIB, _CONTRIB_VERSION))
    return replaced, stayed


def _matrix(node: onnx.NodeProto, weights: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32] | None:
    """The constant matrix of a product as (out, in); None where it is none, or the node does more than multiply."""
    values = weights.get(node.input[1])
    if values is None or values.ndim != _MATRIX:
        return None
    if node.op_type == "MatMul":
        return np.ascontiguousarray(values.T)
    if _attribute(node, "transA", 0) != 0 or _attribute(node, "alpha", 1.0) != 1 or _attribute(node, "beta", 1.0) != 1:
        return None
    return np.ascontiguousarray(values if _attribute(node, "transB", 0) == 1 else values.T)


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    return next((float(helper.get_attribute_value(each)) for each in node.attribute if each.name == name), default)


def _constants(name: str, matrix: NDArray[np.float32], scheme: BlockScheme, added: list[onnx.TensorProto]) -> list[str]:
    quantized = quantize(matrix, scheme)
    arrays = {f"{name}/values": quantized.values, f"{name}/scales": quantized.scales.ravel()}
    if quantized.zero_points is not None:
        arrays[f"{name}/zero_points"] = quantized.zero_points.ravel()
    added += [numpy_helper.from_array(values, each) for each, values in arrays.items()]
    return list(arrays)


def _product(
    node: onnx.NodeProto, matrix: NDArray[np.float32], scheme: BlockScheme, constants: list[str]
) -> list[onnx.NodeProto]:
    bias = node.op_type == "Gemm" and len(node.input) > _MATRIX and node.input[2] != ""
    output = f"{node.output[0]}/product" if bias else node.output[0]
    product = helper.make_node(
        "MatMulNBits",
        [node.input[0], *constants],
        [output],
        name=node.name,
        domain=CONTRIB,
        K=matrix.shape[1],
        N=matrix.shape[0],
        bits=scheme.bits,
        block_size=scheme.block_size,
        accuracy_level=_ACCURACY_LEVEL,
    )
    if not bias:
        return [product]
    return [product, helper.make_node("Add", [output, node.input[2]], [node.output[0]], name=f"{node.name}/bias")]
