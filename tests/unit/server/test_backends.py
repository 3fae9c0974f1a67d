from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import onnxruntime_genai as og
import pytest
import server_support as support
from onnx import TensorProto, helper, numpy_helper

from hedgerow.models import describing, pack_adapter
from hedgerow.models.attach import attach
from hedgerow.models.describing import Description
from hedgerow.models.pack_adapter import AdapterRequest
from hedgerow.models.validate.builds import Build, Session
from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import Base, GoldenText, Message, Requires
from hedgerow.server import backends, golden, loading, tensors
from hedgerow.server.backends import TextRequest
from hedgerow.server.backends.genai import GenaiBackend
from hedgerow.server.backends.genai_decoding import EngineDecoding, GeneratorDecoding, Sampling
from hedgerow.server.computing import Computing
from hedgerow.server.errors import BadRequest, Unusable

HELLO = ({"role": "user", "content": "hello"},)


@pytest.fixture(scope="module", params=["all", "last"])
def text(request, tiny_text):
    backend = backends.load(tiny_text[request.param], threads=1)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def engine(tiny_text):
    backend = backends.load(tiny_text["all"], threads=1)
    yield backend
    backend.close()


def say(backend: GenaiBackend, **request) -> tuple[str, int, object]:
    """The text, the number of steps that gave some, and the decoding (closed)."""
    decoding = backend.begin(TextRequest(**{"messages": HELLO, "max_tokens": 24, "temperature": 0.0} | request))
    try:
        while not decoding.read():
            pass
        pieces = []
        while (piece := decoding.step()) is not None:
            pieces.append(piece)
    finally:
        decoding.close()
    return "".join(pieces), len(pieces), decoding


# ── text ────────────────────────────────────────────────────────────────────


def test_the_graph_decides_which_interface_runs_it(tiny_text, caplog) -> None:
    caplog.set_level("INFO")
    for kind, usable, decoding in (("all", True, EngineDecoding), ("last", False, GeneratorDecoding)):
        backend = backends.load(tiny_text[kind], threads=1)
        assert backend.engine is usable
        assert isinstance(say(backend)[2], decoding)
        backend.close()
    assert "its graph is not for Engine" in caplog.text


def test_both_interfaces_and_both_graphs_say_the_same(tiny_text) -> None:
    said = set()
    for kind in ("all", "last"):
        backend = backends.load(tiny_text[kind], threads=1)
        said.add(say(backend)[0])
        backend.engine = False
        said.add(say(backend)[0])
        backend.close()
    assert len(said) == 1
    assert said != {""}


def test_length_and_prompt_are_counted(text) -> None:
    _, steps, decoding = say(text, max_tokens=5)
    assert (steps, decoding.truncated) == (5, True)
    assert decoding.prompt_tokens == len(text._prompt(TextRequest(messages=HELLO)))


def test_a_full_context_ends_the_answer_as_truncated(text) -> None:
    _, steps, decoding = say(text, messages=None, prompt="a" * 120, max_tokens=500)
    assert steps == 128 - decoding.prompt_tokens
    assert decoding.truncated


def test_a_prompt_that_leaves_no_room_is_refused(text) -> None:
    with pytest.raises(BadRequest, match=r"the prompt has 200 tokens; the model's context holds 128"):
        text.begin(TextRequest(prompt="a" * 200))


def test_an_empty_prompt_is_refused(text) -> None:
    with pytest.raises(BadRequest, match="the prompt is empty"):
        text.begin(TextRequest(prompt=""))


@pytest.mark.parametrize("kind, decoding", [("all", EngineDecoding), ("last", GeneratorDecoding)])
def test_an_end_token_ends_without_truncation(tiny_text, tmp_path, kind: str, decoding: type) -> None:
    """The third token of the greedy answer is declared to be an end."""
    folder = shutil.copytree(tiny_text[kind], tmp_path / kind)
    backend = backends.load(folder, threads=1)
    pieces = [token for token, _ in zip(greedy_tokens(backend), range(3), strict=False)]
    backend.close()
    assert pieces[2] not in pieces[:2]
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["eos_token_id"] = [2, pieces[2]]
    (folder / "genai_config.json").write_text(json.dumps(config))
    ending = backends.load(folder, threads=1)
    _, steps, done = say(ending)
    assert isinstance(done, decoding)
    assert (steps, done.truncated) == (2, False)
    ending.close()


def greedy_tokens(backend: GenaiBackend) -> Iterator[int]:
    prompt = backend._prompt(TextRequest(messages=HELLO))
    parameters = og.GeneratorParams(backend._model)
    parameters.set_search_options(max_length=len(prompt) + 24, do_sample=False)
    generator = og.Generator(backend._model, parameters)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
        yield int(generator.get_next_tokens()[0])


def test_a_seed_repeats_an_answer(text) -> None:
    first, again, other = (say(text, temperature=1.5, seed=seed)[0] for seed in (11, 11, 12))
    assert first == again
    assert first != other


@pytest.mark.parametrize("seed", [0, -1, 2**31, 2**63])
def test_every_seed_that_the_protocol_allows_is_one(engine, seed: int) -> None:
    assert say(engine, temperature=1.5, seed=seed)[0] == say(engine, temperature=1.5, seed=seed)[0]


def test_without_a_seed_answers_differ(text) -> None:
    assert len({say(text, temperature=1.5)[0] for _ in range(4)}) > 1


@pytest.mark.parametrize("temperature", [0.5, 1.9])
def test_a_tiny_top_p_leaves_the_likeliest_token_alone(text, temperature: float) -> None:
    """onnxruntime-genai 0.18 ignores top_p where top_k is 0."""
    greedy = say(text)[0]
    assert say(text, temperature=temperature, top_p=1e-6)[0] == greedy
    assert say(text, temperature=temperature, top_p=1e-6, seed=3)[0] == greedy


@pytest.mark.parametrize("temperature", [1e-9, 1e-3])
def test_a_tiny_temperature_is_nearly_greedy(text, temperature: float) -> None:
    assert say(text, temperature=temperature)[0] == say(text)[0]


def test_sampling_is_of_the_request() -> None:
    assert Sampling.of(TextRequest(temperature=0.0, seed=3), 49152) is None
    assert Sampling.of(TextRequest(temperature=1.0, top_p=0.9), 49152) == Sampling(1.0, 0.9, 1024, None)
    assert Sampling.of(TextRequest(temperature=1.1, seed=2**31 + 5), 49152) == Sampling(1.1, 1.0, 49152, 5)
    assert Sampling.of(TextRequest(temperature=0.7), 263) == Sampling(0.7, 1.0, 263, None)


def test_a_prompt_whose_logits_would_be_large_is_read_in_parts(engine, monkeypatch) -> None:
    whole = say(engine)[0]
    monkeypatch.setattr("hedgerow.server.backends.genai._LOGITS_BYTES", 8 * 263 * 4)
    said, _, decoding = say(engine)
    assert isinstance(decoding, GeneratorDecoding)
    assert said == whole


def test_a_prompt_is_read_in_parts_without_the_engine(tiny_text) -> None:
    backend = backends.load(tiny_text["last"], threads=1)
    decoding = backend.begin(TextRequest(prompt="a" * 100, max_tokens=4))
    assert [decoding.read() for _ in range(4)] == [False, False, False, True]
    decoding.close()
    backend.close()


def test_leaving_early_and_beginning_again(text) -> None:
    for _ in range(3):
        decoding = text.begin(TextRequest(messages=HELLO, temperature=0.0))
        while not decoding.read():
            pass
        decoding.step()
        decoding.close()
    assert say(text)[0] == say(text)[0]


def test_two_generations_in_turn_do_not_mix(text) -> None:
    alone = [say(text, messages=None, prompt=prompt)[0] for prompt in ("hello hello", "something else")]
    decodings = [
        text.begin(TextRequest(prompt=prompt, max_tokens=24, temperature=0.0))
        for prompt in ("hello hello", "something else")
    ]
    for decoding in decodings:
        while not decoding.read():
            pass
    said = ["", ""]
    ended = [False, False]
    while not all(ended):
        for index, decoding in enumerate(decodings):
            piece = None if ended[index] else decoding.step()
            ended[index] = piece is None
            said[index] += piece or ""
    for decoding in decodings:
        decoding.close()
    assert said == alone


def counts_while_it_computes(backend: GenaiBackend, owner: str, call: str) -> bool:
    """Whether another thread gets to count within ``decoding.<owner>.<call>``. Only giving the lock away lets it."""
    counter, stop = itertools.count(), threading.Event()
    latest = [0]

    def count() -> None:
        while not stop.is_set():
            latest[0] = next(counter)
            time.sleep(0)

    class Watched:
        def __init__(self, inner: object) -> None:
            self.inner, self.counted = inner, False

        def __getattr__(self, name: str) -> object:
            return self.run if name == call else getattr(self.inner, name)

        def run(self, *arguments: object) -> object:
            work, before = getattr(self.inner, call), latest[0]
            result = work(*arguments)
            self.counted = self.counted or latest[0] != before
            return result

    watcher = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)
    watcher.start()
    try:
        for _ in range(100):  # the tiny model is done in microseconds, before the other thread may wake up
            decoding = backend.begin(TextRequest(prompt="a" * 100, max_tokens=20, temperature=0.0))
            watched = Watched(getattr(decoding, owner))
            setattr(decoding, owner, watched)
            while not decoding.read():
                pass
            while decoding.step() is not None:
                pass
            setattr(decoding, owner, watched.inner)
            decoding.close()
            if watched.counted:
                return True
        return False
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        watcher.join()


def test_the_engine_computes_without_pythons_lock_and_the_generator_does_not(engine, tiny_text) -> None:
    assert counts_while_it_computes(engine, "_engine", "run")
    backend = backends.load(tiny_text["last"], threads=1)
    assert not counts_while_it_computes(backend, "_generator", "generate_next_token")
    backend.close()


def test_probabilities_are_those_of_the_graph(tiny_text) -> None:
    """Held to onnxruntime alone, which reads prompt and answer in one run."""
    folder = tiny_text["all"]
    backend = backends.load(folder, threads=1)
    said, _, plain = say(backend, prompt="hello there", messages=None, max_tokens=6)
    weighed = backend.begin(TextRequest(prompt="hello there", max_tokens=6, temperature=0.0, logprobs=True))
    while not weighed.read():
        pass
    pieces, found = [], []
    while (piece := weighed.step()) is not None:
        pieces.append(piece)
        found.append(weighed.logprob)
    weighed.close()
    prompt = backend._prompt(TextRequest(prompt="hello there"))
    backend.close()
    assert "".join(pieces) == said
    assert isinstance(plain, EngineDecoding)
    build = Build("tiny", folder / "model.onnx", folder, None)
    tokens = list(prompt)
    for logprob in found:
        row = Session(build.model).logits(tokens)[-1].astype(np.float64)
        token = int(row.argmax())
        assert logprob == pytest.approx(float(row[token] - np.log(np.exp(row).sum())), abs=1e-4)
        tokens.append(token)
    assert len(found) == 6


# ── adapters ────────────────────────────────────────────────────────────────


def add_lora(folder: Path, *adapters: str) -> Path:
    """Give the graph's head a LoRA input of rank two, zero where no adapter is active, and write random adapters."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    head = next(node for node in model.graph.node if "logits" in node.output)
    hidden = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]["hidden_size"]
    vocabulary = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    head.output[0] = "logits_alone"
    shapes = {"lora_a": (hidden, 2), "lora_b": (2, vocabulary)}
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    model.graph.node.extend(
        [
            helper.make_node("MatMul", [head.input[0], "lora_a"], ["low"]),
            helper.make_node("MatMul", ["low", "lora_b"], ["delta"]),
            helper.make_node("Add", ["logits_alone", "delta"], ["logits"]),
        ]
    )
    onnx.save(model, folder / "model.onnx")
    (folder / "adapters").mkdir()
    for seed, name in enumerate(adapters):
        random = np.random.default_rng(seed)
        form = ort.AdapterFormat()
        form.set_adapter_version(1)
        form.set_model_version(1)
        values = {each: 30 * random.standard_normal(shape).astype(np.float32) for each, shape in shapes.items()}
        form.set_parameters({each: ort.OrtValue.ortvalue_from_numpy(value) for each, value in values.items()})
        form.export_adapter(str(folder / "adapters" / f"{name}.onnx_adapter"))
    return folder


@pytest.fixture(params=["all", "last"])
def adapted(request, tiny_text, tmp_path):
    folder = shutil.copytree(tiny_text[request.param], tmp_path / request.param)
    backend = backends.load(add_lora(folder, "formal", "terse"), threads=1)
    yield backend
    backend.close()


def test_an_adapter_changes_what_is_said_and_none_leaves_it_as_it_was(adapted, tiny_text) -> None:
    plain = backends.load(tiny_text["last"], threads=1)
    base = say(plain)[0]
    plain.close()
    assert adapted.adapters == ("formal", "terse")
    said = [say(adapted, adapter=adapter)[0] for adapter in (None, "formal", "terse", "formal", None)]
    assert said[0] == said[4] == base
    assert said[1] == said[3]
    assert len(set(said)) == 3


def test_generations_with_and_without_an_adapter_do_not_mix(adapted) -> None:
    alone = {adapter: say(adapted, adapter=adapter)[0] for adapter in (None, "formal", "terse")}
    running = {
        adapter: adapted.begin(TextRequest(messages=HELLO, max_tokens=24, temperature=0.0, adapter=adapter))
        for adapter in alone
    }
    said = dict.fromkeys(alone, "")
    for decoding in running.values():
        while not decoding.read():
            pass
    for _ in range(25):
        for adapter, decoding in running.items():
            said[adapter] += decoding.step() or ""
    for decoding in running.values():
        decoding.close()
    assert said == alone


def test_golden_questions_of_an_adapter_are_put_to_it(adapted) -> None:
    messages = tuple(Message(each["role"], each["content"]) for each in HELLO)
    own = {each: say(adapted, adapter=each)[0].strip() for each in (None, "formal")}
    right = [GoldenText(messages, text, max_tokens=24, match="prefix", adapter=each) for each, text in own.items()]
    swapped = GoldenText(messages, own[None], max_tokens=24, match="prefix", adapter="formal")
    missing = GoldenText(messages, own[None], max_tokens=24, match="prefix", adapter="gone")
    said = [golden.failures(SimpleNamespace(golden=(each,)), adapted) for each in (*right, swapped, missing)]
    assert said[:2] == [[], []]
    assert "wanted (prefix)" in said[2][0]
    assert said[3] == ["the golden input is for adapter 'gone', which this model has not loaded"]


def test_a_version_with_an_adapter_is_loaded_by_the_golden_questions_of_both(adapted, tmp_path) -> None:
    """From checkpoint and adapter to what a device loads, through the commands' own functions."""
    folder = next(path.parent for path in tmp_path.glob("*/adapters"))
    own = {each: say(adapted, adapter=each)[0].strip() for each in (None, "formal")}
    names = ("formal.onnx_adapter", "terse.onnx_adapter")
    file, other = ((folder / "adapters" / name).rename(tmp_path / name) for name in names)
    (folder / "adapters").rmdir()
    asked = {}
    for adapter, text in own.items():
        question = {"kind": "text", "messages": list(HELLO), "expect": text, "max_tokens": 24, "match": "prefix"}
        asked[adapter] = tmp_path / f"{adapter}.json"
        asked[adapter].write_text(json.dumps([question]))
    said = Description("assistant", "1.0.0", "MIT", golden=asked[None])
    made = describing.make(said, folder, files=[asked[None]], tools={}, format="onnx-genai", requires=Requires(100))
    (folder / "manifest.json").write_bytes(manifests.encode(made))
    said = Description("formal", "1.0.0", "MIT", golden=asked["formal"])
    request = AdapterRequest(file, Base("assistant", ">=1.0,<2"), folder, said)
    adapter = pack_adapter.pack(request, cache=tmp_path / "cache")

    whole = attach(folder, [adapter], tmp_path / "1.1.0", version="1.1.0").directory
    loaded = loading.load("assistant", whole, computing=Computing(threads=1), check_golden=True)
    assert (loaded.golden, loaded.model.backend.adapters) == (2, ("formal",))
    loaded.model.backend.close()
    # The other adapter under its name: the device finds out before it serves anything.
    shutil.copyfile(other, whole / "adapters/formal.onnx_adapter")
    with pytest.raises(Unusable, match="wanted \\(prefix\\)") as caught:
        loading.load("assistant", whole, computing=Computing(threads=1), check_golden=True)
    assert caught.value.code == "golden_failed"


def test_a_file_that_is_no_adapter_is_named(tiny_text, tmp_path) -> None:
    folder = shutil.copytree(tiny_text["last"], tmp_path / "last")
    (folder / "adapters").mkdir()
    (folder / "adapters" / "broken.onnx_adapter").write_bytes(b"junk")
    with pytest.raises(Unusable, match=r"broken\.onnx_adapter is no adapter of this model") as caught:
        backends.load(folder, threads=1)
    assert caught.value.code == "load_failed"


# ── tensors ─────────────────────────────────────────────────────────────────

KINDS = {
    "BOOL": (TensorProto.BOOL, [True, False, True]),
    "UINT8": (TensorProto.UINT8, [0, 255]),
    "UINT16": (TensorProto.UINT16, [0, 65535]),
    "UINT32": (TensorProto.UINT32, [0, 2**32 - 1]),
    "UINT64": (TensorProto.UINT64, [0, 2**64 - 1]),
    "INT8": (TensorProto.INT8, [-128, 127]),
    "INT16": (TensorProto.INT16, [-(2**15), 2**15 - 1]),
    "INT32": (TensorProto.INT32, [-(2**31), 2**31 - 1]),
    "INT64": (TensorProto.INT64, [-(2**63), 2**63 - 1]),
    "FP16": (TensorProto.FLOAT16, [0.5, -65504.0]),
    "BF16": (TensorProto.BFLOAT16, [1.5, -2.0]),
    "FP32": (TensorProto.FLOAT, [1.5, -3.4e38]),
    "FP64": (TensorProto.DOUBLE, [1e300, -0.1]),
    "BYTES": (TensorProto.STRING, ["Grüße", "", "x"]),
}


@pytest.mark.parametrize("datatype", KINDS)
def test_every_data_type_goes_through_the_runtime(datatype: str, tmp_path) -> None:
    kind, values = KINDS[datatype]
    backend = backends.load(support.write_identity(tmp_path, kind), threads=1)
    assert [spec.datatype for spec in (*backend.inputs, *backend.outputs)] == [datatype] * 2
    array = tensors.from_values(values, datatype, [len(values)], name="x")
    out = backend.infer({"x": array}, [])["y"]
    assert tensors.datatype_of(out) == datatype
    said = tensors.to_json(out, name="y")
    assert np.allclose(said, values) if datatype == "FP32" else said == values
    assert tensors.to_bytes(out) == tensors.to_bytes(array)
    backend.close()


def test_rows_may_be_none(tmp_path) -> None:
    backend = backends.load(support.write_add(tmp_path, 1.0), threads=1)
    assert backend.inputs[0].shape == (-1, 2)
    assert backend.infer({"x": np.zeros((0, 2), np.float32)}, ["y"])["y"].shape == (0, 2)
    backend.close()


def test_what_the_graph_cannot_take_is_the_callers_fault(tmp_path) -> None:
    node = helper.make_node("Gather", ["c", "x"], ["y"])
    constant = helper.make_tensor("c", TensorProto.FLOAT, [2], [1.0, 2.0])
    support.write_graph(
        tmp_path, [node], [("x", TensorProto.INT64, ["n"])], [("y", TensorProto.FLOAT, ["n"])], [constant]
    )
    backend = backends.load(tmp_path, threads=1)
    with pytest.raises(BadRequest, match=r"the model refuses these inputs: .*indices element out of data bounds"):
        backend.infer({"x": np.array([9])}, [])
    backend.close()


# ── loading ─────────────────────────────────────────────────────────────────


def test_what_is_no_model(tmp_path) -> None:
    with pytest.raises(Unusable, match=r"neither genai_config\.json nor exactly one \.onnx file"):
        backends.load(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(Unusable, match="INVALID_PROTOBUF") as caught:
        backends.load(tmp_path)
    assert caught.value.code == "load_failed"


def test_a_folder_that_genai_cannot_read(tmp_path) -> None:
    (tmp_path / "genai_config.json").write_text("{}")
    with pytest.raises(Unusable) as caught:
        backends.load(tmp_path)
    assert caught.value.code == "load_failed"


def test_a_missing_package_is_named(tmp_path, monkeypatch) -> None:
    support.write_add(tmp_path, 1.0)
    monkeypatch.delitem(sys.modules, "hedgerow.server.backends.onnx", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(Unusable, match=r"onnxruntime is not installed: pip install 'hedgerow\[device\]' brings it"):
        backends.load(tmp_path)


def test_both_runtimes_are_told_not_to_report_before_they_are_imported() -> None:
    code = (
        "import hedgerow.server.backends, os, sys;"
        "assert not {'onnxruntime', 'onnxruntime_genai'} & set(sys.modules);"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
