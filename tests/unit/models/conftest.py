"""A tiny Llama with random weights, written by the gguf package: what a real checkpoint has, in 200 KB."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from hedgerow.cli import cli, run

TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_alphabet() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes as (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


@dataclass
class TinyLlama:
    """Figures and contents of the checkpoint; tests change a field and write it again."""

    hidden: int = 64
    inner: int = 96
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    context: int = 128
    seed: int = 7
    matrix_type: Type = Type.Q4_1
    embedding_type: Type = Type.Q8_0
    tied: bool = True
    architecture: str = "llama"
    metadata: dict[str, Any] = field(default_factory=dict)
    without: set[str] = field(default_factory=set)
    extra_tensors: dict[str, Any] = field(default_factory=dict)
    pre: str = "smollm"
    template: str | None = TEMPLATE

    @property
    def tokens(self) -> list[str]:
        return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_alphabet(), "he", "ll", "hell", "hello"]

    @property
    def tensors(self) -> dict[str, tuple[Any, Type]]:
        random = np.random.default_rng(self.seed)
        head = self.hidden // self.heads

        def matrix(rows: int, columns: int, kind: Type) -> tuple[Any, Type]:
            # Off centre, as real blocks are: that is what zero points and offsets are for.
            values = random.normal(0.02, 0.15, (rows, columns)).astype(np.float32)
            return values, kind

        def norm() -> tuple[Any, Type]:
            return random.normal(1, 0.1, self.hidden).astype(np.float32), Type.F32

        found = {"token_embd.weight": matrix(len(self.tokens), self.hidden, self.embedding_type)}
        if not self.tied:
            found["output.weight"] = matrix(len(self.tokens), self.hidden, self.embedding_type)
        found["output_norm.weight"] = norm()
        for layer in range(self.layers):
            at = f"blk.{layer}."
            found[at + "attn_norm.weight"] = norm()
            found[at + "attn_q.weight"] = matrix(self.hidden, self.hidden, self.matrix_type)
            found[at + "attn_k.weight"] = matrix(self.kv_heads * head, self.hidden, self.matrix_type)
            found[at + "attn_v.weight"] = matrix(self.kv_heads * head, self.hidden, self.matrix_type)
            found[at + "attn_output.weight"] = matrix(self.hidden, self.hidden, self.matrix_type)
            found[at + "ffn_norm.weight"] = norm()
            found[at + "ffn_gate.weight"] = matrix(self.inner, self.hidden, self.matrix_type)
            found[at + "ffn_up.weight"] = matrix(self.inner, self.hidden, self.matrix_type)
            found[at + "ffn_down.weight"] = matrix(self.hidden, self.inner, self.matrix_type)
        return found | self.extra_tensors

    def write(self, path: Path) -> Path:
        writer = gguf.GGUFWriter(str(path), self.architecture)
        tokens = self.tokens
        values: dict[str, Any] = {
            "llama.block_count": self.layers,
            "llama.context_length": self.context,
            "llama.embedding_length": self.hidden,
            "llama.feed_forward_length": self.inner,
            "llama.attention.head_count": self.heads,
            "llama.attention.head_count_kv": self.kv_heads,
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.padding_token_id": 2,
            "llama.rope.freq_base": 10000.0,
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "general.license": "apache-2.0",
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": self.pre,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(tokens) - 3),
            "tokenizer.ggml.merges": ["h e", "l l", "he ll", "hell o"],
        } | self.metadata
        if self.template is not None:
            values["tokenizer.chat_template"] = self.template
        for key, value in values.items():
            if key not in self.without:
                add_value(writer, key, value)
        for name, (tensor, kind) in self.tensors.items():
            if name not in self.without:
                if kind == Type.F32:
                    writer.add_tensor(name, tensor)
                else:
                    writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


@pytest.fixture
def write_tiny(tmp_path: Path) -> Callable[..., Path]:
    """``write_tiny(field=value, …)`` → path of the checkpoint."""

    def write(**fields: Any) -> Path:
        return TinyLlama(**fields).write(tmp_path / "tiny.gguf")

    return write


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyLlama().write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def hedgerow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Any]:
    """``hedgerow(argument, …)`` → exit code, standard output, standard error; ``var/`` is the test's own."""
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("COLUMNS", "160")  # tables wrap at the width of whatever runs the tests

    def call(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hedgerow", *map(str, arguments)])
        code = run(cli, "hedgerow")
        said = capsys.readouterr()
        return code, said.out, said.err

    return call
