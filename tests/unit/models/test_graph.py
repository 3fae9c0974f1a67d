"""The graph against an independent forward pass in NumPy, straight from the GGUF file's own layout."""

from dataclasses import replace

import gguf
import numpy as np
import onnxruntime
import pytest

from hedgerow.models.gguf_file import GgufFile
from hedgerow.models.graph import FAITHFUL, FAST, FLOAT32, build_graph
from hedgerow.models.llama import LlamaCheckpoint

TOKENS = [1, 80, 90, 100, 110, 2, 40, 7, 260, 99, 33]
HEADS, KV_HEADS, HEAD = 4, 2, 16


def reference_logits(path, tokens):
    """Llama as llama.cpp computes it: rotary pairs ``(2i, 2i + 1)``, in float64; nothing shared with the package."""
    reader = gguf.GGUFReader(path)
    weights = {t.name: gguf.dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weights[name]

    def rotate(x):
        angles = np.outer(np.arange(len(x)), 10000.0 ** (-np.arange(0, HEAD, 2) / HEAD))[:, None, :]
        even, odd = x[..., 0::2], x[..., 1::2]
        out = np.empty_like(x)
        out[..., 0::2] = even * np.cos(angles) - odd * np.sin(angles)
        out[..., 1::2] = even * np.sin(angles) + odd * np.cos(angles)
        return out

    count = len(tokens)
    x = weights["token_embd.weight"][tokens]
    causal = np.triu(np.full((count, count), -np.inf), 1)
    for layer in range(2):
        at = f"blk.{layer}."
        h = norm(x, at + "attn_norm.weight")
        q = rotate((h @ weights[at + "attn_q.weight"].T).reshape(count, HEADS, HEAD))
        k = rotate((h @ weights[at + "attn_k.weight"].T).reshape(count, KV_HEADS, HEAD))
        v = (h @ weights[at + "attn_v.weight"].T).reshape(count, KV_HEADS, HEAD)
        k, v = (np.repeat(m, HEADS // KV_HEADS, axis=1) for m in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(HEAD) + causal
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", shares, v).reshape(count, -1) @ weights[at + "attn_output.weight"].T
        h = norm(x, at + "ffn_norm.weight")
        gate = h @ weights[at + "ffn_gate.weight"].T
        inner = gate / (1 + np.exp(-gate)) * (h @ weights[at + "ffn_up.weight"].T)
        x = x + inner @ weights[at + "ffn_down.weight"].T
    head = weights.get("output.weight", weights["token_embd.weight"])
    return norm(x, "output_norm.weight") @ head.T


class Model:
    def __init__(self, path, folder, options):
        with GgufFile(path) as file:
            build_graph(LlamaCheckpoint(file), folder, options)
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    def run(self, tokens, mask=None, past=None):
        tokens = np.atleast_2d(np.asarray(tokens, dtype=np.int64))
        feeds = {"input_ids": tokens, "attention_mask": np.ones_like(tokens) if mask is None else mask}
        empty = np.zeros((len(tokens), KV_HEADS, 0, HEAD), dtype=np.float32)
        for name in self.names[1:]:
            feeds[name.replace("present", "past_key_values")] = empty if past is None else past[name]
        found = dict(zip(self.names, self.session.run(None, feeds), strict=True))
        return found.pop("logits"), found


def cosine(a, b):
    return ((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).min()


@pytest.mark.parametrize("tied", [True, False])
def test_float32_graph_computes_the_checkpoint(write_tiny, tmp_path, tied):
    path = write_tiny(tied=tied)
    logits, _ = Model(path, tmp_path, replace(FLOAT32, last_token_logits=False)).run(TOKENS)
    np.testing.assert_allclose(logits[0], reference_logits(path, TOKENS), atol=2e-4)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("options, least", [(FAITHFUL, 0.999), (FAST, 0.85)])
def test_quantized_graphs_stay_close_to_it(write_tiny, tmp_path, options, least, tied):
    path = write_tiny(tied=tied)
    logits, _ = Model(path, tmp_path, replace(options, last_token_logits=False)).run(TOKENS)
    assert cosine(logits[0], reference_logits(path, TOKENS)) > least


@pytest.mark.parametrize("options", [FLOAT32, FAST], ids=["float32", "fast"])
def test_token_by_token_equals_all_at_once(tiny_gguf, tmp_path, options):
    model = Model(tiny_gguf, tmp_path, replace(options, last_token_logits=True))
    at_once, _ = model.run(TOKENS)
    logits, past = model.run(TOKENS[:4])
    for end in range(5, len(TOKENS) + 1):
        logits, past = model.run(TOKENS[end - 1], np.ones((1, end), dtype=np.int64), past)
    np.testing.assert_allclose(logits, at_once, atol=0.02)


def test_each_sequence_of_a_batch_gets_the_logits_of_its_own_last_token(tiny_gguf, tmp_path):
    model = Model(tiny_gguf, tmp_path, replace(FLOAT32, last_token_logits=True))
    short = TOKENS[:5]
    padded = short + [2] * (len(TOKENS) - len(short))
    mask = np.array([[1] * len(TOKENS), [1] * len(short) + [0] * (len(TOKENS) - len(short))], dtype=np.int64)
    logits, _ = model.run([TOKENS, padded], mask)
    assert logits.shape[1] == 1
    np.testing.assert_allclose(logits[0], model.run(TOKENS)[0][0], atol=1e-4)
    np.testing.assert_allclose(logits[1], model.run(short)[0][0], atol=1e-4)


def test_head_that_blocks_do_not_fill(write_tiny, tmp_path):
    # 96 columns in blocks of 64: the lookup returns padded rows, which must be cut.
    path = write_tiny(hidden=96, heads=6, kv_heads=2, inner=64)
    with GgufFile(path) as file:
        build_graph(LlamaCheckpoint(file), tmp_path, FAITHFUL)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    feeds = {"input_ids": np.array([[5, 6]]), "attention_mask": np.ones((1, 2), dtype=np.int64)}
    feeds |= {i.name: np.zeros((1, 2, 0, 16), dtype=np.float32) for i in session.get_inputs()[2:]}
    assert np.isfinite(session.run(["logits"], feeds)[0]).all()
