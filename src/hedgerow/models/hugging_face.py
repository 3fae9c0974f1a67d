"""A Hugging Face checkpoint of the Llama family as a folder: ``config.json``, ``*.safetensors``, ``tokenizer.json``.

PyTorch is not needed: a safetensors file is a header and the tensors' bytes (8 bytes of length, JSON, data;
https://github.com/huggingface/safetensors#format). What ``config.json`` asks for and the decoder graph does not
compute is refused by name, never built wrong.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors
from numpy.typing import NDArray

from hedgerow.errors import UsageError
from hedgerow.models.llama import LlamaConfig

ARCHITECTURES: Final = ("LlamaForCausalLM", "MistralForCausalLM")
Weights = NDArray[np.float32]

_TYPES: Final[dict[str, np.dtype[Any]]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Our names (GGUF's) → what stands after ``model.layers.N.``."""
# Keys of config.json that would change what is computed, with the only value that the graph computes.
_PLAIN: Final[dict[str, tuple[Any, ...]]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "sliding_window": (None,),
    "quantization_config": (None,),
    "pretraining_tp": (1,),
}


@dataclass(frozen=True)
class _Place:
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


class HuggingFaceCheckpoint:
    """Weights of a checkpoint's folder by layer, as ``(out features, in features)`` float32 matrices.

    Raises:
        UsageError: a file is missing or damaged, the architecture is another, or there are weights that have no place
            in the graph.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.document = read_json(folder / "config.json")
        self._places = _find_tensors(folder)
        self.config = _read_config(folder, self.document, self._places)
        self._refuse_leftovers()

    def embedding(self) -> Weights:
        """Token embedding, ``(vocab_size, hidden_size)``."""
        return self._matrix("model.embed_tokens.weight", (self.config.vocab_size, self.config.hidden_size))

    def lm_head(self) -> Weights:
        """Output projection, ``(vocab_size, hidden_size)``."""
        if self.config.tied_embeddings:
            return self.embedding()
        return self._matrix("lm_head.weight", (self.config.vocab_size, self.config.hidden_size))

    def output_norm(self) -> Weights:
        return self._matrix("model.norm.weight", (self.config.hidden_size,))

    def layer(self, index: int) -> dict[str, Weights]:
        """The weights of one decoder layer, by the names that ``LlamaCheckpoint.layer`` has."""
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
        return {
            name: self._matrix(f"model.layers.{index}.{_LAYER[name]}.weight", shape) for name, shape in shapes.items()
        }

    def rotary_frequencies(self) -> Weights:
        """Angle per position of each rotary pair, ``(head_size / 2,)`` in radians, scaled as ``config.json`` says."""
        half = np.arange(0, self.config.head_size, 2, dtype=np.float64)
        frequencies = self.config.rope_theta ** (-half / self.config.head_size)
        return _scaled(frequencies, _rope(self.document), self.folder).astype(np.float32)

    def _matrix(self, name: str, shape: tuple[int, ...]) -> Weights:
        place = self._places.get(name)
        if place is None:
            raise UsageError(
                f"the checkpoint has no tensor {name}",
                where=str(self.folder),
                next_step="fetch the checkpoint again; all of its .safetensors files are needed",
            )
        if place.shape != shape:
            raise UsageError(
                f"tensor {name} has shape {place.shape}; config.json says {shape}",
                where=str(place.file),
                next_step="fetch the checkpoint again",
            )
        kind = _TYPES.get(place.dtype)
        if kind is None:
            raise UsageError(
                f"tensor {name} has the type {place.dtype}; these go: {', '.join(_TYPES)}",
                where=str(place.file),
                next_step="take the checkpoint in its original precision: quantization is done here",
            )
        raw = np.memmap(place.file, dtype=kind, mode="r", offset=place.start, shape=shape)
        if place.dtype == "BF16":  # the upper half of a float32
            return np.asarray(np.left_shift(raw.astype(np.uint32), np.uint32(16)).view(np.float32))
        return np.asarray(raw, dtype=np.float32)

    def _refuse_leftovers(self) -> None:
        known = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
        for index in range(self.config.layers):
            known |= {f"model.layers.{index}.{name}.weight" for name in _LAYER.values()}
            # Older checkpoints store what follows from rope_theta.
            known.add(f"model.layers.{index}.self_attn.rotary_emb.inv_freq")
        leftover = sorted(set(self._places) - known)
        if leftover:
            raise UsageError(
                f"the checkpoint has {len(leftover)} tensors that the decoder graph has no place for, "
                f"the first is {leftover[0]}",
                where=str(self._places[leftover[0]].file),
                next_step="use a plain Llama checkpoint: no biases, experts or adapters",
            )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UsageError: no such file, or something else is in it.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(
            f"{path.name} is missing", where=str(path.parent), next_step="give the folder of a whole checkpoint"
        ) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise UsageError(f"no readable JSON: {error}", where=str(path), next_step="fetch the file again") from error
    if not isinstance(document, dict):
        raise UsageError("not a JSON object", where=str(path), next_step="fetch the file again")
    return document


def _find_tensors(folder: Path) -> dict[str, _Place]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(
            "no .safetensors file here",
            where=str(folder),
            next_step="fetch the checkpoint as safetensors; PyTorch's .bin files run code when they are read",
        )
    found: dict[str, _Place] = {}
    for path in files:
        try:
            with safetensors.safe_open(path, framework="numpy"):
                pass  # offsets, overlaps and the file's length are checked here
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
        except (safetensors.SafetensorError, ValueError) as error:
            raise UsageError(
                f"the safetensors file is damaged: {error}", where=str(path), next_step="fetch the file again"
            ) from error
        for name, entry in header.items():
            if name != "__metadata__":
                start = 8 + length + entry["data_offsets"][0]
                found[name] = _Place(path, entry["dtype"], tuple(entry["shape"]), start)
    return found


def _read_config(folder: Path, document: dict[str, Any], places: dict[str, _Place]) -> LlamaConfig:
    where = str(folder / "config.json")
    architectures = document.get("architectures") or [document.get("model_type")]
    if not set(architectures) & set(ARCHITECTURES):
        raise UsageError(
            f"the architecture {', '.join(map(str, architectures))} is not supported; "
            f"these are: {', '.join(ARCHITECTURES)}",
            where=f"{where}, architectures",
            next_step="choose a checkpoint of the Llama family, or export the model to ONNX: --onnx FILE",
        )
    for key, allowed in _PLAIN.items():
        if document.get(key, allowed[0]) not in allowed:
            raise UsageError(
                f"{key} is {document[key]!r}; only {allowed[0]!r} is supported",
                where=where,
                next_step="choose a plain checkpoint of the Llama family",
            )

    def need(key: str) -> Any:
        try:
            return document[key]
        except KeyError:
            raise UsageError(f"config.json lacks {key}", where=where, next_step="fetch the checkpoint again") from None

    heads, hidden = int(need("num_attention_heads")), int(need("hidden_size"))
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=int(need("intermediate_size")),
        layers=int(need("num_hidden_layers")),
        heads=heads,
        kv_heads=int(document.get("num_key_value_heads") or heads),
        head_size=int(document.get("head_dim") or hidden // heads),
        context_length=int(need("max_position_embeddings")),
        vocab_size=int(need("vocab_size")),
        rope_theta=float(_rope(document).get("rope_theta") or document.get("rope_theta", 10000.0)),
        norm_epsilon=float(need("rms_norm_eps")),
        # A checkpoint that ties may still store the head; then it is the same tensor.
        tied_embeddings=bool(document.get("tie_word_embeddings", False)) or "lm_head.weight" not in places,
    )


def _rope(document: dict[str, Any]) -> dict[str, Any]:
    """What is said of rotary positions; transformers 5 writes ``rope_parameters``, before it was ``rope_scaling``."""
    return document.get("rope_parameters") or document.get("rope_scaling") or {}


def _scaled(frequencies: NDArray[np.float64], rope: dict[str, Any], folder: Path) -> NDArray[np.float64]:
    """Scale frequencies as transformers' ``modeling_rope_utils`` does, for the kinds that need no sequence length."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return frequencies
    if kind == "linear":
        return frequencies / float(rope["factor"])
    if kind != "llama3":
        raise UsageError(
            f"rotary positions are scaled by {kind!r}; default, linear and llama3 are supported",
            where=str(folder / "config.json"),
            next_step="choose a checkpoint without it",
        )
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    original = float(rope["original_max_position_embeddings"])
    waves = 2 * math.pi / frequencies
    # Long waves are stretched, short ones stay, those between go over smoothly.
    share = np.clip((original / waves - low) / (high - low), 0, 1)
    return frequencies * ((1 - share) / float(rope["factor"]) + share)
