"""The decoder graph for onnxruntime-genai, built from onnxruntime's contrib operators.

A layer: norm, packed QKV projection, attention with rotary positions and the key-value cache inside, output
projection, skip-norm, packed gate and up, SiLU, down. What was measured and why it was chosen stands in
``docs/decisions/0002-model-import.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from hedgerow.models.llama import LlamaConfig
from hedgerow.models.onnx_file import CONTRIB, GraphWriter
from hedgerow.models.quantize import BlockScheme, QuantizedMatrix, quantize

MODEL_FILE: Final = "model.onnx"
DATA_FILE: Final = "model.onnx.data"
PAST_KEY, PAST_VALUE = "past_key_values.%d.key", "past_key_values.%d.value"
PRESENT_KEY, PRESENT_VALUE = "present.%d.key", "present.%d.value"

Weights = NDArray[np.float32]

_OFFSETS: Final = BlockScheme(4, 32, symmetric=False, offsets=True)


class Checkpoint(Protocol):
    """What a decoder is built from, whatever file it comes from.

    Matrices are ``(out features, in features)`` in float32, or what the builder makes of them (``exact_graph``).
    """

    @property
    def config(self) -> LlamaConfig: ...

    def embedding(self) -> Any: ...

    def lm_head(self) -> Any: ...

    def output_norm(self) -> Weights: ...

    def layer(self, index: int) -> dict[str, Any]: ...

    def rotary_frequencies(self) -> Weights: ...


@dataclass(frozen=True)
class GraphOptions:
    """Choices that change speed, size or numerics; a scheme of None leaves that matrix float32.

    ``accuracy_level``: what ``MatMulNBits`` computes with, 1 = float32, 4 = int8 activations.
    ``last_token_logits``: logits of each sequence's last token alone. A long prompt is a fifth cheaper, but the Engine
    of onnxruntime-genai, which gives Python's lock away while it works, wants them all (decision 0005).
    """

    qkv: BlockScheme | None
    output: BlockScheme | None
    gate_up: BlockScheme | None
    down: BlockScheme | None
    head: BlockScheme | None
    accuracy_level: int = 4
    last_token_logits: bool = False


# As fast as onnxruntime-genai's own int4 build, and closer to the checkpoint: the two kinds of matrix that suffer most
# from integer zero points carry offsets; larger blocks elsewhere pay for it.
FAST: Final = GraphOptions(
    qkv=_OFFSETS, output=BlockScheme(4, 64), gate_up=BlockScheme(4, 64), down=_OFFSETS, head=BlockScheme(4, 32)
)
# All of a Q4_1 or Q8_0 checkpoint, for a fifth of the speed.
FAITHFUL: Final = GraphOptions(qkv=_OFFSETS, output=_OFFSETS, gate_up=_OFFSETS, down=_OFFSETS, head=BlockScheme(8, 64))
FLOAT32: Final = GraphOptions(qkv=None, output=None, gate_up=None, down=None, head=None)


def build_graph(
    checkpoint: Checkpoint,
    folder: Path,
    options: GraphOptions,
    *,
    builder: Callable[[Checkpoint, GraphWriter, GraphOptions], Builder] | None = None,
    on_layer: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Write ``model.onnx`` and ``model.onnx.data`` into ``folder``; ``on_layer(done, total)`` reports progress."""
    layers = checkpoint.config.layers
    with GraphWriter(folder / DATA_FILE) as graph:
        decoder = (builder or Builder)(checkpoint, graph, options)
        decoder.declare()
        hidden = decoder.embed()
        pending: str | None = None  # a projection not yet added to the residual stream
        for index in range(layers):
            hidden, pending = decoder.layer(index, hidden, pending)
            on_layer(index + 1, layers)
        decoder.finish(hidden, pending)
        graph.save(folder / MODEL_FILE, graph_name="decoder", producer="hedgerow")


class Builder:
    """Adds a decoder's nodes to ``graph``, one method a part; ``exact_graph`` overrides some."""

    def __init__(self, checkpoint: Checkpoint, graph: GraphWriter, options: GraphOptions) -> None:
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.options = options
        self.graph = graph
        self.tied_head: QuantizedMatrix | None = None

    def declare(self) -> None:
        """Inputs, outputs, what attention derives from the mask, and the rotary tables."""
        graph, config = self.graph, self.config
        graph.input("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])
        graph.input("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"])
        rows = 1 if self.options.last_token_logits else "sequence_length"
        graph.output("logits", TensorProto.FLOAT, ["batch_size", rows, config.vocab_size])
        for index in range(config.layers):
            for past, present in ((PAST_KEY, PRESENT_KEY), (PAST_VALUE, PRESENT_VALUE)):
                before, after = "past_sequence_length", "total_sequence_length"
                graph.input(past % index, TensorProto.FLOAT, ["batch_size", config.kv_heads, before, config.head_size])
                graph.output(
                    present % index, TensorProto.FLOAT, ["batch_size", config.kv_heads, after, config.head_size]
                )
        self.one = graph.constant("one", np.array([1], dtype=np.int64))
        lengths = graph.node("ReduceSum", ["attention_mask", self.one], "mask/lengths", keepdims=0)
        self.last = graph.node("Sub", [lengths, self.one], "mask/last")
        self.seqlens = graph.node("Cast", [self.last], "mask/seqlens_k", to=TensorProto.INT32)
        self.total = graph.node("Shape", ["attention_mask"], "mask/total", start=1, end=2)
        scalar = graph.constant("scalar_shape", np.zeros(0, dtype=np.int64))
        total = graph.node("Reshape", [self.total, scalar], "mask/total_scalar")
        self.total_length = graph.node("Cast", [total], "mask/total_sequence_length", to=TensorProto.INT32)
        angles = np.outer(np.arange(config.context_length, dtype=np.float64), self.checkpoint.rotary_frequencies())
        self.rotary = [
            graph.constant("rotary.cos", np.cos(angles).astype(np.float32)),
            graph.constant("rotary.sin", np.sin(angles).astype(np.float32)),
        ]

    def embed(self) -> str:
        """Look tokens up in the table that a tied output projection shares, quantized as that is."""
        scheme = self.options.head
        embedding = self.checkpoint.embedding()
        if scheme is None:
            return self.graph.node("Gather", [self.graph.constant("embedding", embedding), "input_ids"], "embed")
        matrix = quantize(embedding, scheme)
        tied = self.config.tied_embeddings
        if tied:
            self.tied_head = matrix
        values, *rest = self.constants("head" if tied else "embedding", matrix)
        # Same bytes, two shapes: the lookup takes rows of bytes where the product takes rows of blocks.
        flat = self.graph.constant("embed/flat_shape", np.array([matrix.rows, -1], dtype=np.int64))
        looked_up = self.graph.node(
            "GatherBlockQuantized",
            [self.graph.node("Reshape", [values, flat], "embed/rows"), "input_ids", *rest],
            "embed",
            domain=CONTRIB,
            bits=scheme.bits,
            block_size=scheme.block_size,
            gather_axis=0,
            quantize_axis=1,
        )
        if matrix.columns % scheme.block_size == 0:
            return looked_up
        end = self.graph.constant("embed/end", np.array([matrix.columns], dtype=np.int64))
        axis = self.graph.constant("embed/axis", np.array([2], dtype=np.int64))
        return self.graph.node("Slice", [looked_up, self.zero(), end, axis], "embed/unpadded")

    def layer(self, index: int, hidden: str, pending: str | None) -> tuple[str, str]:
        """Add decoder layer ``index``; return the residual stream and the projection still to be added to it."""
        weights = self.checkpoint.layer(index)
        at = f"layers.{index}"
        normed, hidden = self.norm(f"{at}/attn_norm", weights["attn_norm"], hidden, pending)
        attended = self.attention(index, at, normed, weights)
        projected = self.project(f"{at}/attn_output", weights["attn_output"], attended, self.options.output)
        normed, hidden = self.norm(f"{at}/ffn_norm", weights["ffn_norm"], hidden, projected)
        return hidden, self.feed_forward(at, normed, weights)

    def attention(self, index: int, at: str, normed: str, weights: dict[str, Any]) -> str:
        packed = self.stack([weights["attn_q"], weights["attn_k"], weights["attn_v"]])
        qkv = self.project(f"{at}/attn_qkv", packed, normed, self.options.qkv)
        past = [PAST_KEY % index, PAST_VALUE % index]
        return self.graph.node(
            "GroupQueryAttention",
            [qkv, "", "", *past, self.seqlens, self.total_length, *self.rotary],
            [f"{at}/attention", PRESENT_KEY % index, PRESENT_VALUE % index],
            domain=CONTRIB,
            num_heads=self.config.heads,
            kv_num_heads=self.config.kv_heads,
            do_rotary=1,
            rotary_interleaved=0,
            scale=self.config.head_size**-0.5,
        )

    def feed_forward(self, at: str, normed: str, weights: dict[str, Any]) -> str:
        """SwiGLU: ``down(silu(gate(x)) * up(x))``."""
        packed = self.stack([weights["ffn_gate"], weights["ffn_up"]])
        both = self.project(f"{at}/ffn_gate_up", packed, normed, self.options.gate_up)
        gate, up = f"{at}/ffn_gate", f"{at}/ffn_up"
        self.graph.node("Split", [both], [gate, up], axis=-1, num_outputs=2)
        # QuickGelu is x * sigmoid(alpha * x): with alpha 1 that is SiLU in one pass over the values.
        activated = self.graph.node("QuickGelu", [gate], f"{at}/ffn_silu", domain=CONTRIB, alpha=1.0)
        inner = self.graph.node("Mul", [activated, up], f"{at}/ffn_inner")
        return self.project(f"{at}/ffn_down", weights["ffn_down"], inner, self.options.down)

    def finish(self, hidden: str, pending: str | None) -> None:
        """Final norm and the output projection."""
        normed, _ = self.norm("output_norm", self.checkpoint.output_norm(), hidden, pending)
        if self.options.last_token_logits:
            normed = self.pick_last(normed)
        self.head(normed)

    def head(self, normed: str) -> None:
        """``logits``, from the normed values."""
        if self.tied_head is not None:
            self.multiply("head", self.tied_head, normed, "logits")
        elif self.options.head is not None:
            self.multiply("head", quantize(self.checkpoint.lm_head(), self.options.head), normed, "logits")
        elif self.config.tied_embeddings:
            transposed = self.graph.node("Transpose", ["embedding"], "head/transposed", perm=[1, 0])
            self.graph.node("MatMul", [normed, transposed], "logits")
        else:
            weights = self.graph.constant("head.weight", self.checkpoint.lm_head().T)
            self.graph.node("MatMul", [normed, weights], "logits")

    def pick_last(self, normed: str) -> str:
        """Keep each sequence's last real token, ``(batch, 1, hidden)``.

        Shorter prompts of a batch are padded on the right, so the row is counted from the mask: position of the last
        token minus what earlier calls have seen, never before the first row.
        """
        graph = self.graph
        length = graph.node("Shape", ["input_ids"], "last/length", start=1, end=2)
        past = graph.node("Sub", [self.total, length], "last/past")
        row = graph.node("Sub", [self.last, past], "last/row")
        row = graph.node("Max", [row, self.zero()], "last/row_from_zero")
        indices = graph.node("Unsqueeze", [row, self.one], "last/indices")
        picked = graph.node("GatherND", [normed, indices], "last/picked", batch_dims=1)
        return graph.node("Unsqueeze", [picked, self.one], "last/hidden")

    def stack(self, parts: Sequence[Any]) -> Any:
        """Matrices of one width under each other: one product instead of several."""
        return np.concatenate(parts)

    def zero(self) -> str:
        return self.graph.constant("zero", np.array([0], dtype=np.int64))

    def norm(self, name: str, gamma: Weights, hidden: str, pending: str | None) -> tuple[str, str]:
        """RMS norm of ``hidden`` (plus ``pending``); return the normed values and the sum."""
        weight = self.graph.constant(f"{name}.weight", gamma)
        epsilon = self.config.norm_epsilon
        if pending is None:
            self.graph.node(
                "SimplifiedLayerNormalization", [hidden, weight], name, axis=-1, epsilon=epsilon, stash_type=1
            )
            return name, hidden
        outputs = [name, "", "", f"{name}/residual"]
        inputs = [hidden, pending, weight]
        self.graph.node("SkipSimplifiedLayerNormalization", inputs, outputs, domain=CONTRIB, epsilon=epsilon)
        return name, outputs[3]

    def project(self, name: str, weights: Any, activations: str, scheme: BlockScheme | None) -> str:
        if scheme is None:
            return self.graph.node("MatMul", [activations, self.graph.constant(f"{name}.weight", weights.T)], name)
        columns = weights.shape[1]
        if scheme.has_offsets(columns):
            activations = self.append_block_sums(name, activations, scheme.block_size)
        return self.multiply(name, quantize(weights, scheme), activations, name)

    def append_block_sums(self, name: str, activations: str, block_size: int) -> str:
        """``(batch, rows, K)`` → ``(batch, rows, K + K / block)``: what offset columns are multiplied with."""
        shape = self.graph.constant(f"blocks_of_{block_size}", np.array([0, 0, -1, block_size], dtype=np.int64))
        axis = self.graph.constant("blocks_axis", np.array([3], dtype=np.int64))
        blocks = self.graph.node("Reshape", [activations, shape], f"{name}/blocks")
        sums = self.graph.node("ReduceSum", [blocks, axis], f"{name}/block_sums", keepdims=0)
        return self.graph.node("Concat", [activations, sums], f"{name}/with_sums", axis=-1)

    def multiply(self, name: str, matrix: QuantizedMatrix, activations: str, output: str) -> str:
        return self.graph.node(
            "MatMulNBits",
            [activations, *self.constants(name, matrix)],
            output,
            domain=CONTRIB,
            K=matrix.columns,
            N=matrix.rows,
            bits=matrix.scheme.bits,
            block_size=matrix.scheme.block_size,
            accuracy_level=self.options.accuracy_level,
        )

    def constants(self, name: str, matrix: QuantizedMatrix) -> list[str]:
        names = [
            self.graph.constant(f"{name}.weight", matrix.values),
            self.graph.constant(f"{name}.scales", matrix.scales),
        ]
        if matrix.zero_points is not None:
            names.append(self.graph.constant(f"{name}.zero_points", matrix.zero_points))
        return names
