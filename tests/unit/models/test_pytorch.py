"""Importing PyTorch programs with PyTorch itself: networks exported here, converted, asked on both sides.

PyTorch never runs in this process: a script exports networks, as their authors would, and the worker converts them.
Both run where PyTorch is installed beside us, or in its container: `make test-pytorch` (minutes, once, to build it).
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.support import torch_archives as made

from hedgerow.emulator.podman import Podman
from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.models import onnx_probe, place, pytorch_import, torch_archive, torch_image, torch_run, torch_worker
from hedgerow.models.describing import Description
from hedgerow.models.pytorch_import import PyTorchRequest, import_pytorch
from hedgerow.paths import cache_dir
from hedgerow.registry import bundle

INSTALLED = all(importlib.util.find_spec(name) for name in ("torch", "onnxscript"))
IN_CONTAINER = "HEDGEROW_TEST_PYTORCH" in os.environ
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (INSTALLED or IN_CONTAINER),
        reason="PyTorch is neither installed (requirements/torch.txt) nor asked for (make test-pytorch)",
    ),
]
only_container = pytest.mark.skipif(not IN_CONTAINER, reason="of the container: make test-pytorch")

EXPORT = """
import os, sys
import torch
from torch import nn
from torch.export import Dim, export, save
folder = sys.argv[1]
torch.manual_seed(7)

class Small(nn.Module):  # a CNN: convolution, batch norm, mean, classes
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 5)
    def forward(self, images):
        return self.head(torch.relu(self.norm(self.conv(images))).mean((2, 3)))

class Both(nn.Module):  # an MLP of two inputs and named outputs, a constant, a block without gradients
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.GELU(approximate="tanh"), nn.Linear(8, 3), nn.Softmax(-1))
    def forward(self, x, *, kind):
        with torch.no_grad():
            y = x * torch.tensor([1.0, 2.0, 3.0, 4.0])
        return {"scores": self.layers(y), "next": kind + 1}

class Bessel(nn.Module):  # an operator that ONNX has no form for
    def forward(self, x):
        return torch.special.bessel_j0(x)

class Runs:  # what a pickle can do
    def __reduce__(self):
        return os.mkdir, (os.path.join(folder, "ran"),)

cnn = Small().eval()
images = torch.randn(2, 3, 8, 8)
save(export(cnn, (images,)), f"{folder}/cnn.pt2")
free = {"x": {0: Dim("batch", min=1, max=16)}, "kind": None}
asked = (torch.randn(3, 4),), {"kind": torch.tensor([1, 2])}
save(export(Both().eval(), *asked, dynamic_shapes=free), f"{folder}/mlp.pt2")
save(export(Bessel(), (torch.randn(3),)), f"{folder}/bessel.pt2")
program = export(cnn, (images,))
save(program, f"{folder}/plain.pt2")
torch.save(cnn.state_dict(), f"{folder}/state.pt")
torch.jit.save(torch.jit.trace(cnn, images), f"{folder}/script.pt")
import io, pickle, zipfile
with zipfile.ZipFile(f"{folder}/plain.pt2") as old, zipfile.ZipFile(f"{folder}/hostile.pt2", "w") as new:
    for name in old.namelist():
        buffer = io.BytesIO()
        torch.save(((Runs(),), {}), buffer)
        new.writestr(name, buffer.getvalue() if "sample_inputs" in name else old.read(name))
"""


class Here:
    """PyTorch as it is installed beside us."""

    command = None
    flags = ()

    def tools(self):
        return place.versions_of(*torch_worker.TOOLS)

    def python(self, code, folder):
        """Run ``code``, its first argument is ``folder``; return what came of it."""
        words = [sys.executable, "-I", "-W", "ignore", "-c", code, str(folder)]
        return subprocess.run(words, capture_output=True, text=True, check=False)


class Contained:
    """PyTorch in its container, which runs what else is asked of it as it runs the worker."""

    flags = ("--in-container",)

    def __init__(self, command, asked, cache):
        self.command, self._asked, self.cache = command, asked, cache

    def tools(self):
        return torch_image.locked_versions(torch_worker.TOOLS)

    def words(self, code, folder):
        folder.chmod(0o777)  # as ``torch_run`` does: in the container runs somebody else
        words = self.command(self._asked, folder)
        assert words[-4:] == ["-I", "/worker.py", "/asked", "/answered"]
        return [*words[:-4], "-I", "-W", "ignore", "-c", code, "/answered"]

    def python(self, code, folder):
        return subprocess.run(self.words(code, folder), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def pytorch(tmp_path_factory):
    if not IN_CONTAINER:
        yield Here()
        return
    with torch_image.command(say=print) as command:
        yield Contained(command, tmp_path_factory.mktemp("asked"), cache_dir())


@pytest.fixture(scope="module")
def exported(tmp_path_factory, pytorch):
    folder = tmp_path_factory.mktemp("exported")
    done = pytorch.python(EXPORT, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def imported(pytorch):
    """``imported(file, cache, field=value, …)`` → the bundle's folder."""

    def make(file, cache, *, by=pytorch, **fields):
        request = PyTorchRequest(file, Description("net", "1.0.0", "MIT"), by.tools(), command=by.command, **fields)
        return import_pytorch(request, cache=cache)

    return make


def answers_of(where):
    """The golden answers, and what onnxruntime says to the golden inputs now."""
    found = bundle.verify_files(where).manifest
    kinds = {each.name: np.float32 if each.dtype == "FP32" else np.int64 for each in found.inputs}
    golden = found.golden[0]
    feeds = {each.name: np.array(each.data, kinds[each.name]).reshape(each.shape) for each in golden.inputs}
    got = onnx_probe.Session.of_file(where / "model.onnx").run(feeds)
    return golden, {each.name: np.array(each.data).reshape(each.shape) for each in golden.outputs}, got


def test_a_cnn_answers_as_in_pytorch_with_the_same_bytes_each_time(imported, exported, tmp_path):
    one, two = (imported(exported / "cnn.pt2", tmp_path / name) for name in ("one", "two"))
    assert bundle.verify_files(one).sha256 == bundle.verify_files(two).sha256
    golden, want, got = answers_of(one)
    assert want.keys() == got.keys()
    for name, value in want.items():
        assert value.shape == (2, 5)
        np.testing.assert_allclose(got[name], value, atol=1e-5)
    figures = json.loads((one / pytorch_import.CONVERSION).read_text())["outputs"]
    assert figures[0]["max_abs_error"] < 1e-5
    assert figures[0]["cosine"] > 0.9999999
    assert golden.inputs[0].shape == (2, 3, 8, 8)
    assert str(exported).encode() not in (one / "model.onnx").read_bytes()


def test_an_mlp_with_a_free_batch_and_named_inputs(imported, exported, tmp_path):
    where = imported(exported / "mlp.pt2", tmp_path, shapes={"x": (-1, 4)})
    found = bundle.load(where).manifest
    assert [(each.name, each.dtype, each.shape) for each in found.inputs] == [
        ("x", "FP32", (-1, 4)),
        ("kind", "INT64", (2,)),
    ]
    golden, want, got = answers_of(where)
    assert set(want) == set(got) == {"scores", "next"}
    np.testing.assert_allclose(got["scores"], want["scores"], atol=1e-5)
    np.testing.assert_array_equal(want["next"], np.array(golden.inputs[1].data) + 1)
    with pytest.raises(UsageError, match="dimension of 17; the program was exported for"):
        imported(exported / "mlp.pt2", tmp_path, shapes={"x": (17, 4)})


def test_what_a_file_would_run_does_not_run(pytorch, imported, exported, tmp_path):
    """The example inputs of this archive make a folder when they are loaded; they are not."""
    mark = exported / "ran"
    where = imported(exported / "hostile.pt2", tmp_path)
    assert place.is_whole(where)
    assert not mark.exists()
    # The same file, given to PyTorch as it is, does: this is why it never is.
    pytorch.python("import sys, torch; torch.export.load(sys.argv[1] + '/hostile.pt2')", exported)
    assert mark.is_dir()


def test_what_onnx_has_no_form_for_is_told_in_pytorchs_words(imported, exported, tmp_path):
    with pytest.raises(UsageError, match=r"PyTorch cannot convert the program to ONNX(.|\n)*bessel_j0"):
        imported(exported / "bessel.pt2", tmp_path)
    assert list(tmp_path.glob("net-*")) == []


@pytest.mark.parametrize("name, rule", [("state.pt", "no-pickle"), ("script.pt", "no-torchscript")])
def test_real_files_of_other_kinds_are_refused(exported, name, rule):
    with pytest.raises(RefusedError, match=f"rule: {rule}"):
        torch_archive.read(exported / name)


def test_the_tests_own_archive_is_one_for_pytorch(pytorch, tmp_path):
    """What the tests without PyTorch are built on is converted by it."""
    archive = torch_archive.read(made.write(tmp_path / "net.pt2", made.entries(2, 3)))
    x = np.array([[2, -1, 0.5], [0, 0, -3]], dtype=np.float32)
    with torch_run.convert(archive, {"x": x}, command=pytorch.command) as answer:
        (output,) = answer.outputs.values()
        np.testing.assert_array_equal(output, np.maximum(x + np.float32([-1, 0, 1]), 0))


def test_the_command(hedgerow, pytorch, exported, tmp_path, monkeypatch):
    if IN_CONTAINER:  # its image is not built anew for a test's own ``var/``
        monkeypatch.setattr(torch_image, "cache_dir", lambda: pytorch.cache)
    output = tmp_path / "out"
    said = (*pytorch.flags, "--name", "cnn", "--version", "2.0.0", "--license", "MIT", "--output", output, "--json")
    code, out, err = hedgerow("model", "import", "--pytorch", exported / "cnn.pt2", *said)
    assert code == 0, err
    facts = json.loads(out)
    assert facts["format"] == "onnx"
    assert facts["conversion"]["outputs"][0]["max_abs_error"] < 1e-5
    assert bundle.verify_files(output).manifest.provenance.tools["torch"].startswith("2.")
    # From the cache, in words.
    code, out, _ = hedgerow("model", "import", "--pytorch", exported / "cnn.pt2", *said[:-3])
    assert code == 0
    assert "cosine 1.0" in out


@only_container
@pytest.mark.skipif(not INSTALLED, reason="PyTorch is not installed beside us: requirements/torch.txt")
@pytest.mark.parametrize("name", ["cnn", "mlp", "hostile"])
def test_the_container_makes_the_bundle_that_is_made_without_it(imported, exported, tmp_path, name):
    shapes = {"x": (-1, 4)} if name == "mlp" else {}
    contained = imported(exported / f"{name}.pt2", tmp_path / "contained", shapes=shapes)
    here = imported(exported / f"{name}.pt2", tmp_path / "here", by=Here(), shapes=shapes)
    assert bundle.verify_files(contained).sha256 == bundle.verify_files(here).sha256


# What a conversion that was taken over could find out, and try.
PROBE = """
import json, os, socket, sys
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)

def refused(what):
    try:
        what()
    except OSError as error:
        return error.errno
    return 0

def written(path):
    return lambda: open(path, "a").close()

found = {
    "user": os.getuid(),
    "capabilities": [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privileges": status["NoNewPrivs"],
    "seccomp": status["Seccomp"],
    "networks": [name for _, name in socket.if_nameindex()],
    "processes": [int(name) for name in os.listdir("/proc") if name.isdigit()],
    "groups": os.listdir("/sys/fs/cgroup"),
    "environment": sorted(os.environ),
    "refused": {
        "root": refused(written("/mark")),
        "program": refused(written(sys.executable)),
        "worker": refused(written("/worker.py")),
        "asked": refused(written("/asked/mark")),
        "device": refused(lambda: os.mknod("/tmp/null", 0o20666, os.makedev(1, 3))),
        "another root": refused(lambda: os.chroot("/tmp")),
    },
}
open(sys.argv[1] + "/found.json", "w").write(json.dumps(found))
"""


@only_container
def test_what_runs_in_the_container_can_do_little(pytorch, tmp_path):
    done = pytorch.python(PROBE, tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["user"] == torch_image.NOBODY
    assert {int(each, 16) for each in found["capabilities"]} == {0}
    assert (found["no_new_privileges"], found["seccomp"]) == ("1", "2")
    assert found["networks"] == ["lo"]
    assert len(found["processes"]) == 1
    assert found["groups"] == []
    assert not [name for name in found["environment"] if name.startswith(("HEDGEROW", "SSH", "AWS"))]
    assert [what for what, errno in found["refused"].items() if errno == 0] == []


def containers(pytorch):
    """Names of the containers of PyTorch that there are, running or not."""
    podman = Podman(pytorch.cache / "podman")
    with podman.session():
        told = podman.run("ps", "--all", "--format={{.Names}}").stdout.split()
    return [name for name in told if name.startswith("hedgerow-torch-run-")]


@only_container
def test_a_conversion_that_takes_too_long_leaves_no_container(pytorch, tmp_path):
    with torch_image.command(say=print) as command:
        waiting = Contained(command, Path(pytorch._asked), pytorch.cache)
        words = waiting.words("import sys, time; open(sys.argv[1] + '/began', 'w'); time.sleep(600)", tmp_path)
        with pytest.raises(PublisherError, match="took longer than 10 s and was ended"):
            torch_run.run(words, cwd=tmp_path, time_limit_s=10)
        assert (tmp_path / "began").exists()
    assert containers(pytorch) == []
