"""The decoder graph over ``ExactMatrix``: what a GGUF file says, computed in float32.

Beside each large product whose blocks have a rest stands a small one: sums of the activations' blocks times the rests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hedgerow.models.exact import BLOCK, ExactMatrix, stack
from hedgerow.models.graph import Builder, GraphOptions
from hedgerow.models.onnx_file import CONTRIB
from hedgerow.models.quantize import BlockScheme

# float32 activations. With int8 ones (level 4) it would be twice as fast and no longer exact: docs/decisions/0040.
EXACT = GraphOptions(qkv=None, output=None, gate_up=None, down=None, head=None, accuracy_level=1)


class ExactBuilder(Builder):
    """As ``Builder``, where a matrix may be an ``ExactMatrix`` or, where the file has floats, an array."""

    def stack(self, parts: Sequence[Any]) -> Any:
        if all(isinstance(part, ExactMatrix) for part in parts):
            return stack(parts)
        return super().stack([part.dequantize() if isinstance(part, ExactMatrix) else part for part in parts])

    def embed(self) -> str:
        table = self.checkpoint.embedding()
        if not isinstance(table, ExactMatrix):
            return super().embed()
        name = "head" if self.config.tied_embeddings else "embedding"
        graph = self.graph
        values, *others = self.exact_constants(name, table)
        flat = graph.constant("embed/flat_shape", np.array([table.rows, -1], dtype=np.int64))
        looked_up = graph.node(
            "GatherBlockQuantized",
            [graph.node("Reshape", [values, flat], "embed/rows"), "input_ids", *others],
            "embed",
            domain=CONTRIB,
            bits=table.bits,
            block_size=BLOCK,
            gather_axis=0,
            quantize_axis=1,
        )
        if table.rest is None:
            return looked_up
        rests = graph.node("Gather", [graph.constant(f"{name}.rest", table.rest), "input_ids"], "embed/rests")
        axis = graph.constant("blocks_axis", np.array([3], dtype=np.int64))
        blocks = graph.node("Reshape", [looked_up, self.blocks_shape()], "embed/blocks")
        shifted = graph.node("Add", [blocks, graph.node("Unsqueeze", [rests, axis], "embed/rest")], "embed/shifted")
        whole = graph.constant("embed/whole_shape", np.array([0, 0, table.columns], dtype=np.int64))
        return graph.node("Reshape", [shifted, whole], "embed/exact")

    def head(self, normed: str) -> None:
        table = self.checkpoint.lm_head()
        if isinstance(table, ExactMatrix):
            # The table that tokens are looked up in has its rests by row, as this product has them by column.
            self.multiply_exactly("head", table, normed, "logits")
        else:
            super().head(normed)

    def project(self, name: str, weights: Any, activations: str, scheme: BlockScheme | None) -> str:
        if isinstance(weights, ExactMatrix):
            return self.multiply_exactly(name, weights, activations, name)
        return super().project(name, weights, activations, scheme)

    def multiply_exactly(self, name: str, matrix: ExactMatrix, activations: str, output: str) -> str:
        """``output`` = ``activations`` times the matrix, transposed, as the checkpoint has it."""
        graph = self.graph
        exact = matrix.rest is None
        product = graph.node(
            "MatMulNBits",
            [activations, *self.exact_constants(name, matrix)],
            output if exact else f"{name}/product",
            domain=CONTRIB,
            K=matrix.columns,
            N=matrix.rows,
            bits=matrix.bits,
            block_size=BLOCK,
            accuracy_level=self.options.accuracy_level,
        )
        if matrix.rest is None:
            return product
        axis = graph.constant("blocks_axis", np.array([3], dtype=np.int64))
        blocks = graph.node("Reshape", [activations, self.blocks_shape()], f"{name}/blocks")
        sums = graph.node("ReduceSum", [blocks, axis], f"{name}/block_sums", keepdims=0)
        rests = graph.constant(f"{name}.rest_by_column", np.ascontiguousarray(matrix.rest.T))
        shift = graph.node("MatMul", [sums, rests], f"{name}/shift")
        return graph.node("Add", [product, shift], output)

    def blocks_shape(self) -> str:
        return self.graph.constant(f"blocks_of_{BLOCK}", np.array([0, 0, -1, BLOCK], dtype=np.int64))

    def exact_constants(self, name: str, matrix: ExactMatrix) -> list[str]:
        names = [
            self.graph.constant(f"{name}.weight", matrix.packed()),
            self.graph.constant(f"{name}.scales", matrix.scales),
        ]
        if not matrix.centred:
            names.append(self.graph.constant(f"{name}.zero_points", matrix.packed_zero_points()))
        return names
