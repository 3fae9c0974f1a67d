"""Importing PyTorch programs, with a stand-in for the process that has PyTorch: what we ask it, and what we believe it.

The stand-in builds the same ReLU in ONNX by hand. PyTorch itself is in test_pytorch.py.
"""

import importlib.util
import json
import socket
import stat
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from tests.support import torch_archives as made

from hedgerow.errors import MachineError, PublisherError, UsageError
from hedgerow.models import place, pytorch_import, torch_archive, torch_run, torch_worker
from hedgerow.models.describing import Description
from hedgerow.models.pytorch_import import PyTorchRequest, import_pytorch
from hedgerow.models.torch_program import Input
from hedgerow.registry import bundle

TOOLS = dict.fromkeys(torch_worker.TOOLS, "1.0")
SAID = Description("relu", "1.0.0", "MIT")
FREE = ("Symbol('s7', integer=True)", 3)

WORKER = """
import json, os, signal, sys, time, zipfile
from pathlib import Path
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
asked, answered = map(Path, sys.argv[1:])
document = json.loads(zipfile.ZipFile(asked / "program.pt2").read("model/models/model.json"))
sizes = document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
shape = [size.get("as_int", "s7") for size in sizes]
x = np.load(asked / "inputs.npz")["arr_0"]
bias = np.array([-1, 0, 1], dtype=np.float32)
nodes = [helper.make_node("Add", ["x", "bias"], ["a"]), helper.make_node("Relu", ["a"], ["y"], doc_string="/home/me")]
given, taken = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
graph = helper.make_graph(nodes, "g", [given], [taken], initializer=[numpy_helper.from_array(bias, "bias")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
onnx.save(model, answered / "model.onnx")
outputs = [np.maximum(x + bias, 0)]
facts = {"tools": TOOLS, "opset": 18, "outputs": ["y"]}
CHANGE
np.savez(answered / "outputs.npz", *outputs)
(answered / "facts.json").write_text(json.dumps(facts))
"""


@pytest.fixture
def file(tmp_path):
    return made.write(tmp_path / "net.pt2", made.entries(2, 3))


@pytest.fixture
def stand_in(tmp_path):
    """``stand_in(statements)`` → a command whose worker runs them before it writes what it found."""

    def make(change=""):
        script = tmp_path / "worker.py"
        script.write_text(WORKER.replace("TOOLS", repr(TOOLS)).replace("CHANGE", change))
        return lambda asked, answered: [sys.executable, str(script), str(asked), str(answered)]

    return make


def imported(file, command, tmp_path, **fields):
    request = PyTorchRequest(file, SAID, TOOLS, command=command, **fields)
    return import_pytorch(request, cache=tmp_path / "cache")


def test_pytorchs_answers_are_the_golden_ones(file, stand_in, tmp_path):
    # A little off, within the limits: what is kept is what PyTorch said.
    where = imported(file, stand_in("outputs[0] = outputs[0] * np.float32(1.0001)"), tmp_path)
    found = bundle.verify_files(where).manifest
    assert (found.format, found.schema) == ("onnx", 1)
    assert [(each.name, each.shape) for each in (*found.inputs, *found.outputs)] == [("x", (2, 3)), ("y", (2, 3))]
    golden = found.golden[0]
    x = np.array(golden.inputs[0].data, dtype=np.float32).reshape(2, 3)
    want = np.maximum(x + np.array([-1, 0, 1], dtype=np.float32), 0) * np.float32(1.0001)
    np.testing.assert_allclose(np.array(golden.outputs[0].data).reshape(2, 3), want, rtol=1e-6)
    figures = json.loads((where / pytorch_import.CONVERSION).read_text())
    (output,) = figures["outputs"]
    assert (output["name"], figures["written_by"]) == ("y", "torch 2.13.0+cpu")
    assert 0.5e-4 < output["max_abs_error"] / output["range"] < 2e-4
    assert output["cosine"] > 0.999999
    assert [source.name for source in found.provenance.sources] == ["net.pt2"]
    assert set(found.provenance.tools) == {*torch_worker.TOOLS, "onnxruntime", "onnxslim"}
    assert b"/home" not in (where / "model.onnx").read_bytes()


def test_the_same_program_gives_the_same_bytes(file, stand_in, tmp_path):
    one, two = (
        bundle.load(import_pytorch(PyTorchRequest(file, SAID, TOOLS, command=stand_in()), cache=tmp_path / name)).sha256
        for name in ("one", "two")
    )
    assert one == two


@pytest.mark.parametrize(
    "change, says",
    [
        ("outputs[0] = outputs[0] + np.float32(0.01)", r"'y' is off by 0.01 \(allowed 0.00\d+\), cosine 0.99\d+"),
        ("outputs[0] = -outputs[0]", r"cosine -1.0"),
        ("outputs[0] = outputs[0] * np.float32(np.nan)", "off by inf"),
        ("outputs[0] = outputs[0][:1]", "off by inf"),
        ("outputs[0] = outputs[0].astype(np.float64)", "off by inf"),
        ("facts['outputs'] = ['z']", "output 'z' is off by inf"),
    ],
)
def test_drift_is_refused_with_its_figures(file, stand_in, tmp_path, change, says):
    with pytest.raises(PublisherError, match=says) as caught:
        imported(file, stand_in(change), tmp_path)
    assert "--inputs" in caught.value.next_step
    assert list((tmp_path / "cache").iterdir()) == []


def test_figures_of_drift():
    one = np.array([3.0, 4.0], dtype=np.float32)
    found = pytorch_import.drift("y", one, np.array([3.0, 4.5], dtype=np.float32))
    assert (found.max_abs_error, found.range) == (0.5, 4.0)
    assert found.cosine == pytest.approx((9 + 18) / (5 * np.hypot(3, 4.5)))
    nothing = np.zeros(2, dtype=np.float32)
    assert pytorch_import.drift("y", nothing, nothing).cosine == 1.0
    assert pytorch_import.drift("y", nothing, one).cosine == 0.0
    whole = np.array([1, 2])
    pytorch_import.check([pytorch_import.drift("y", whole, whole)], {"y": whole}, "f")
    with pytest.raises(PublisherError):
        pytorch_import.check([pytorch_import.drift("y", whole, np.array([1, 3]))], {"y": whole}, "f")


def test_half_floats_have_a_limit_of_their_own():
    half = np.linspace(-1, 1, 50).astype(np.float16)
    near = (half.astype(np.float32) * 1.004).astype(np.float16)
    pytorch_import.check([pytorch_import.drift("y", half, near)], {"y": half}, "f")
    single, near = half.astype(np.float32), near.astype(np.float32)
    with pytest.raises(PublisherError):
        pytorch_import.check([pytorch_import.drift("y", single, near)], {"y": single}, "f")


@pytest.mark.parametrize(
    "change, says",
    [
        ("facts['tools']['torch'] = '0.9'", "made with torch 0.9, and 1.0 was asked for"),
        ("facts['tools'].pop('torch')", "something else"),
        ("facts['outputs'] = 7", "something else"),
        ("facts['opset'] = []", "something else"),
        ("facts = []", "something else"),
        ("(answered / 'model.onnx').unlink()", "something else"),
        ("(answered / 'model.onnx').unlink(); os.symlink('/etc/passwd', answered / 'model.onnx')", "no plain file"),
        ("os.symlink('/etc/passwd', answered / 'facts.json'); os._exit(0)", "no plain file"),
        ("os.mkfifo(answered / 'facts.json'); os._exit(0)", "no plain file"),
        ("import pickle; outputs = [np.array([print], dtype=object)]", "something else"),
        ("os._exit(0)", "something else"),
        ("os._exit(7)", "ended with exit code 7"),
        ("print('out of memory'); sys.stdout.flush(); os.kill(os.getpid(), 9)", "SIGKILL: out of memory"),
        ("os._exit(3)", "no readable error"),
    ],
)
def test_what_the_process_leaves_is_not_believed(file, stand_in, tmp_path, change, says):
    with pytest.raises(PublisherError, match=says):
        imported(file, stand_in(change), tmp_path)


def test_pytorchs_words_are_passed_on(file, stand_in, tmp_path):
    said = {"step": "convert", "words": "DispatchError: no ONNX function for aten.special_bessel_j0"}
    change = f"(answered / 'error.json').write_text(json.dumps({said!r})); os._exit({torch_worker.FAILED})"
    with pytest.raises(UsageError, match="cannot convert the program to ONNX: DispatchError: no ONNX"):
        imported(file, stand_in(change), tmp_path)


@pytest.mark.slow
def test_what_takes_too_long_is_ended(file, stand_in, tmp_path):
    mark = tmp_path / "late"
    change = f"import subprocess; subprocess.Popen(['sh', '-c', 'sleep 3; touch {mark}']); time.sleep(60)"
    with pytest.raises(PublisherError, match="longer than 2 s") as caught:
        imported(file, stand_in(change), tmp_path, time_limit_s=2)
    assert "--time-limit" in caught.value.next_step
    # The whole session was ended, so nothing is left to make the mark.
    subprocess.run(["sleep", "3.5"], check=True)
    assert not mark.exists()


def test_the_process_has_nothing_of_the_operators_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HEDGEROW_PASSPHRASE", "secret")
    code, _ = torch_run.run(["sh", "-c", "env > out"], cwd=tmp_path, time_limit_s=10)
    assert code == 0
    found = dict(line.split("=", 1) for line in (tmp_path / "out").read_text().splitlines())
    assert found["HOME"] == str(tmp_path)
    assert "HEDGEROW_PASSPHRASE" not in found
    with pytest.raises(MachineError, match="no program no-such-program"):
        torch_run.run(["no-such-program"], cwd=tmp_path, time_limit_s=10)


def test_the_process_has_no_network(tmp_path):
    words = torch_run.no_network()
    if not words:
        pytest.skip("this machine lets nobody make a network namespace")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        call = [sys.executable, "-c", f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"]
        assert torch_run.run(call, cwd=tmp_path, time_limit_s=20)[0] == 0
        code, said = torch_run.run([*words, *call], cwd=tmp_path, time_limit_s=20)
    assert code == 1
    assert "unreachable" in said


def test_free_dimensions_are_asked_for_and_held_to_their_range(tmp_path, stand_in):
    found = made.entries(*FREE)
    found["models/model.json"]["range_constraints"] = {"s7": {"min_val": 2, "max_val": 8}}
    file = made.write(tmp_path / "net.pt2", found)
    with pytest.raises(UsageError, match="free dimensions: s7,3"):
        imported(file, stand_in(), tmp_path)
    with pytest.raises(UsageError, match="no input 'images'; it has x"):
        imported(file, stand_in(), tmp_path, shapes={"images": (1, 3)})
    with pytest.raises(UsageError, match="dimension of 9; the program was exported for 2 to 8"):
        imported(file, stand_in(), tmp_path, shapes={"x": (9, 3)})
    where = imported(file, stand_in(), tmp_path, shapes={"x": (4, 3)})
    assert bundle.load(where).manifest.inputs[0].shape == (4, 3)


def test_inputs_are_made_up_of_every_type_and_shape(file):
    archive = torch_archive.read(file)
    inputs = tuple(Input(f"i{kind}", kind, (2, "s0") if kind % 2 else ()) for kind in (1, 2, 6, 7, 9, 10, 11))
    feeds = pytorch_import.ask_with(replace(archive, inputs=inputs), {f"i{k}": (2, 3) for k in (1, 7, 9, 11)}, None)
    assert {name: (value.shape, value.dtype.kind) for name, value in feeds.items()} == {
        "i1": ((2, 3), "f"), "i2": ((), "u"), "i6": ((), "i"), "i7": ((2, 3), "i"), "i9": ((2, 3), "b"),
        "i10": ((), "f"), "i11": ((2, 3), "f"),
    }  # fmt: skip


def test_real_inputs_are_what_is_asked(file, stand_in, tmp_path):
    np.savez(tmp_path / "in.npz", x=np.full((2, 3), 0.25, dtype=np.float32))
    where = imported(file, stand_in(), tmp_path, inputs=tmp_path / "in.npz")
    assert set(bundle.load(where).manifest.golden[0].inputs[0].data) == {0.25}


def test_without_pytorch_it_is_said_what_to_install(hedgerow, file, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else real(name, *rest))
    code, out, err = hedgerow("model", "import", "--pytorch", file, "--license", "MIT")
    assert (code, out) == (2, "")
    assert "torch is not installed here" in err
    assert "requirements/torch.txt" in err
    # What is wrong with a file is said first: nobody installs PyTorch to hear that.
    file.write_bytes(b"\x80\x04K\x01.")
    code, _, err = hedgerow("model", "import", "--pytorch", file, "--license", "MIT")
    assert code == 3
    assert "rule: no-pickle" in err


def test_options_of_the_container_are_pytorchs_alone(hedgerow, file):
    code, _, err = hedgerow("model", "import", "--onnx", file, "--license", "MIT", "--in-container")
    assert code == 2
    assert "--in-container means nothing for --onnx" in err


def test_the_worker_needs_nothing_of_this_package():
    assert "hedgerow" not in {
        line.split()[1].partition(".")[0]
        for line in torch_run.WORKER.read_text().splitlines()
        if line.lstrip().startswith(("import ", "from "))
    }


def test_others_may_read_what_is_asked_and_write_answers_alone(file, stand_in, tmp_path):
    archive = torch_archive.read(file)
    feeds = pytorch_import.ask_with(archive, {}, None)
    seen = {}

    def command(asked, answered):
        for path in (asked, answered, *asked.iterdir()):
            seen[path.name] = stat.S_IMODE(path.stat().st_mode)
        seen["above"] = stat.S_IMODE(asked.parent.stat().st_mode)
        return stand_in()(asked, answered)

    with torch_run.convert(archive, feeds, command=command) as answer:
        assert answer.tools == TOOLS
    assert not answer.model.exists()
    assert seen == {"asked": 0o755, "answered": 0o777, "program.pt2": 0o644, "inputs.npz": 0o644, "above": 0o700}


def test_the_bundles_name_in_the_cache_depends_on_all_that_was_asked(file, stand_in, tmp_path):
    places = {
        imported(file, stand_in(), tmp_path),
        imported(file, stand_in(), tmp_path, simplify=False),
        imported(file, stand_in(), tmp_path, shapes={"x": (2, 3)}),
    }
    assert len(places) == 3
    assert all(place.is_whole(each) for each in places)
