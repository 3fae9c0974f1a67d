"""A Llama-architecture checkpoint: its figures from GGUF metadata, its weights in the usual layout.

Nothing here is about one model: every figure comes from the file, and a file that
holds anything this cannot express (another architecture, experts, biases, scaled
rotary positions) is refused by name, never built wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hedgerow.errors import UsageError
from hedgerow.models.gguf_file import GgufFile

ARCHITECTURE: Final = "llama"
Weights = NDArray[np.float32]

_LAYER_TENSORS: Final = (
    "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down",
)  # fmt: skip


@dataclass(frozen=True)
class LlamaConfig:
    """The figures of a Llama decoder. ``head_size`` in elements, ``context_length`` in tokens."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    context_length: int
    vocab_size: int
    rope_theta: float
    norm_epsilon: float
    tied_embeddings: bool

    @property
    def q_size(self) -> int:
        return self.heads * self.head_size

    @property
    def kv_size(self) -> int:
        return self.kv_heads * self.head_size


class LlamaCheckpoint:
    """Weights of an open GGUF file by layer, as ``(out features, in features)`` float32 matrices."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.config = _read_config(file)
        self._refuse_leftovers()

    def embedding(self) -> Weights:
        """Token embedding, ``(vocab_size, hidden_size)``."""
        return self._matrix("token_embd.weight", (self.config.vocab_size, self.config.hidden_size))

    def lm_head(self) -> Weights:
        """Output projection, ``(vocab_size, hidden_size)``; the embedding itself where the checkpoint ties them."""
        if self.config.tied_embeddings:
            return self.embedding()
        return self._matrix("output.weight", (self.config.vocab_size, self.config.hidden_size))

    def output_norm(self) -> Weights:
        return self._matrix("output_norm.weight", (self.config.hidden_size,))

    def layer(self, index: int) -> dict[str, Weights]:
        """The weights of one decoder layer by GGUF's names: ``attn_q``, ``ffn_down`` and so on.

        Rotary pairs of ``attn_q`` and ``attn_k`` are ``(i, i + head_size / 2)``, as in the original checkpoint.
        """
        config = self.config
        hidden, inner = config.hidden_size, config.intermediate_size
        shapes = {
            "attn_norm": (hidden,),
            "attn_q": (config.q_size, hidden),
            "attn_k": (config.kv_size, hidden),
            "attn_v": (config.kv_size, hidden),
            "attn_output": (hidden, config.q_size),
            "ffn_norm": (hidden,),
            "ffn_gate": (inner, hidden),
            "ffn_up": (inner, hidden),
            "ffn_down": (hidden, inner),
        }
        weights = {name: self._matrix(f"blk.{index}.{name}.weight", shape) for name, shape in shapes.items()}
        weights["attn_q"] = weights["attn_q"][rotary_order(config.q_size, config.heads)]
        weights["attn_k"] = weights["attn_k"][rotary_order(config.kv_size, config.kv_heads)]
        return weights

    @staticmethod
    def layer_names() -> tuple[str, ...]:
        """The names that ``layer`` gives weights."""
        return _LAYER_TENSORS

    def rotary_frequencies(self) -> Weights:
        """Angle per position of each rotary pair, ``(head_size / 2,)`` in radians.

        ``rope_freqs.weight`` is where GGUF keeps the long-context factors of Llama 3.1 and later.
        """
        half = np.arange(0, self.config.head_size, 2, dtype=np.float64)
        frequencies = self.config.rope_theta ** (-half / self.config.head_size)
        if "rope_freqs.weight" in self.file.tensors:
            frequencies = frequencies / self._matrix("rope_freqs.weight", (self.config.head_size // 2,))
        return frequencies.astype(np.float32)

    def _matrix(self, name: str, shape: tuple[int, ...]) -> Weights:
        values = self.file.tensor(name)
        if values.shape != shape:
            raise UsageError(
                f"tensor {name} has shape {values.shape}; the metadata says {shape}",
                where=str(self.file.path),
                next_step="fetch or convert the checkpoint again",
            )
        return values

    def _refuse_leftovers(self) -> None:
        known = {"token_embd.weight", "output.weight", "output_norm.weight", "rope_freqs.weight"}
        known |= {f"blk.{index}.{name}.weight" for index in range(self.config.layers) for name in _LAYER_TENSORS}
        leftover = sorted(set(self.file.tensors) - known)
        if leftover:
            raise UsageError(
                f"the checkpoint has {len(leftover)} tensors that the {ARCHITECTURE} graph has no place for, "
                f"the first is {leftover[0]}",
                where=str(self.file.path),
                next_step=f"use a plain {ARCHITECTURE} checkpoint: no biases, experts or adapters",
            )


def rotary_order(rows: int, heads: int) -> NDArray[np.intp]:
    """Original rows by llama.cpp's: pairs ``(2i, 2i + 1)`` of a head become ``(i, i + head_size / 2)``."""
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(rows)


def _read_config(file: GgufFile) -> LlamaConfig:
    metadata = file.metadata
    architecture = metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise UsageError(
            f"the architecture {architecture!r} is not supported; {ARCHITECTURE!r} is",
            where=f"{file.path}, general.architecture",
            next_step=f"choose a checkpoint of the {ARCHITECTURE} architecture",
        )

    def need(key: str) -> Any:
        try:
            return metadata[f"{ARCHITECTURE}.{key}"]
        except KeyError:
            raise UsageError(
                f"the metadata lacks {ARCHITECTURE}.{key}",
                where=str(file.path),
                next_step="convert the checkpoint with a current llama.cpp",
            ) from None

    heads, hidden = int(need("attention.head_count")), int(need("embedding_length"))
    head_size = int(metadata.get(f"{ARCHITECTURE}.attention.key_length", hidden // heads))
    _refuse_variants(file, head_size)
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=int(need("feed_forward_length")),
        layers=int(need("block_count")),
        heads=heads,
        kv_heads=int(metadata.get(f"{ARCHITECTURE}.attention.head_count_kv", heads)),
        head_size=head_size,
        context_length=int(need("context_length")),
        vocab_size=len(metadata.get("tokenizer.ggml.tokens", ())) or int(need("vocab_size")),
        rope_theta=float(metadata.get(f"{ARCHITECTURE}.rope.freq_base", 10000.0)),
        norm_epsilon=float(need("attention.layer_norm_rms_epsilon")),
        tied_embeddings="output.weight" not in file.tensors,
    )


def _refuse_variants(file: GgufFile, head_size: int) -> None:
    """Refuse what metadata may ask for and the graph does not compute."""
    plain: dict[str, Any] = {
        "attention.value_length": head_size,
        "rope.dimension_count": head_size,
        "rope.scaling.type": "none",
        "expert_count": 0,
        "attention.sliding_window": 0,
    }
    for key, allowed in plain.items():
        value = file.metadata.get(f"{ARCHITECTURE}.{key}", allowed)
        if value != allowed:
            raise UsageError(
                f"{ARCHITECTURE}.{key} is {value!r}; only {allowed!r} is supported",
                where=str(file.path),
                next_step=f"choose a plain {ARCHITECTURE} checkpoint",
            )
