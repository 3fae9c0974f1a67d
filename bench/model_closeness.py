"""How close an imported model is to its checkpoint in float32: divergence, agreement and perplexity on a few texts.

    python bench/model_closeness.py GGUF FOLDER [FOLDER …]

A FOLDER is a bundle, the yardstick, or ``fast``, ``faithful`` and ``exact`` for the qualities, built in here.
Exits 1 where ``exact`` is among them and a token's logits have a cosine below 0.9999 to those of float32.
Texts: this repository's license and documents, and one program, 350 tokens each; logits are compared token by token.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import onnxruntime_genai as og

from hedgerow.models.gguf_file import GgufFile
from hedgerow.models.graph import FLOAT32, build_graph
from hedgerow.models.importer import EXACTLY, QUALITIES, import_recipe, write_graph
from hedgerow.models.llama import LlamaCheckpoint

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ("LICENSE", "docs/contracts.md", "docs/decisions/0001-emulated-hosts.md", "src/hedgerow/atomic.py")
TOKENS = 350
EXACT_BAR = 0.9999
Logits = np.ndarray[Any, np.dtype[np.float64]]


def build(gguf: Path, folder: Path, quality: str | None) -> Path:
    folder.mkdir(exist_ok=True)
    with GgufFile(gguf) as file:
        if quality is None:
            build_graph(LlamaCheckpoint(file), folder, FLOAT32)
        else:
            write_graph(LlamaCheckpoint(file), folder, quality)
    return folder


def log_probabilities(folder: Path, sequences: list[list[int]], gguf: Path) -> list[Logits]:
    with GgufFile(gguf) as file:
        config = LlamaCheckpoint(file).config
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = {node.name for node in session.get_inputs()}
    past = [name for name in names if name.startswith("past_key_values")]
    found = []
    for tokens in sequences:
        feeds = {"input_ids": np.array([tokens]), "attention_mask": np.ones((1, len(tokens)), dtype=np.int64)}
        if "position_ids" in names:
            feeds["position_ids"] = np.arange(len(tokens))[None]
        feeds |= {name: np.zeros((1, config.kv_heads, 0, config.head_size), dtype=np.float32) for name in past}
        logits = session.run(["logits"], feeds)[0][0].astype(np.float64)
        if len(logits) != len(tokens):
            raise SystemExit(f"{folder} gives the last token's logits only: name a quality instead")
        shifted = logits - logits.max(axis=-1, keepdims=True)
        found.append(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
    return found


def cosine(p: Logits, q: Logits) -> Logits:
    """Of the logits less their mean, token by token: what a constant added to all of them does not change."""
    p, q = (side - side.mean(axis=-1, keepdims=True) for side in (p, q))
    return np.asarray((p * q).sum(axis=-1) / np.linalg.norm(p, axis=-1) / np.linalg.norm(q, axis=-1))


def compare(reference: list[Logits], other: list[Logits], sequences: list[list[int]]) -> dict[str, float]:
    """KL divergence in nats a token, share of equal best tokens, perplexity of ``other``."""
    divergence = [(np.exp(p) * (p - q)).sum(axis=-1) for p, q in zip(reference, other, strict=True)]
    agreement = [p.argmax(axis=-1) == q.argmax(axis=-1) for p, q in zip(reference, other, strict=True)]
    surprise = [-q[np.arange(len(t) - 1), t[1:]] for q, t in zip(other, sequences, strict=True)]
    return {
        "least cosine": min(float(cosine(p, q).min()) for p, q in zip(reference, other, strict=True)),
        "KL, nats": float(np.concatenate(divergence).mean()),
        "same best token": float(np.concatenate(agreement).mean()),
        "perplexity": float(np.exp(np.concatenate(surprise).mean())),
    }


def main() -> int:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    gguf = Path(sys.argv[1])
    tokenizer = og.Tokenizer(og.Model(str(import_recipe("smollm2"))))
    sequences = [[int(t) for t in tokenizer.encode((ROOT / text).read_text())][:TOKENS] for text in TEXTS]
    with tempfile.TemporaryDirectory(prefix="closeness.") as temporary:
        folders = {"float32": build(gguf, Path(temporary, "float32"), None)}
        for name in sys.argv[2:]:
            folders[name] = build(gguf, Path(temporary, name), name) if name in QUALITIES else Path(name)
        reference = log_probabilities(folders["float32"], sequences, gguf)
        short = False
        for name, folder in folders.items():
            figures = compare(reference, log_probabilities(folder, sequences, gguf), sequences)
            size = (folder / "model.onnx.data").stat().st_size / 1e6
            said = "  ".join(f"{key} {value:.6f}" for key, value in figures.items())
            print(f"{Path(name).name:24} {size:6.1f} MB  {said}")
            if name == EXACTLY and figures["least cosine"] < EXACT_BAR:
                short = True
    return int(short)


if __name__ == "__main__":
    sys.exit(main())
