"""``hedgerow-device`` beside the real inference server: what both sides mean by prepare, switch and current."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hedgerow.registry import bundle as bundles
from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import GoldenTensor, GoldenTensors, Manifest, Provenance, Requires, Source, Tensor

pytestmark = pytest.mark.slow


def adder(folder: Path, version: str, *, adds: float, says: float) -> Path:
    """A real ONNX model that adds a number, with a golden input that expects ``says`` for zero."""
    folder.mkdir(parents=True)
    shape = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "n"], ["y"])],
        "adder",
        [shape("x", TensorProto.FLOAT, [1])],
        [shape("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.array([adds], np.float32), "n")],
    )
    opset = [helper.make_opsetid("", 17)]
    (folder / "model.onnx").write_bytes(helper.make_model(graph, ir_version=8, opset_imports=opset).SerializeToString())
    onnx.checker.check_model(str(folder / "model.onnx"))
    golden = GoldenTensors((GoldenTensor("x", (1,), (0.0,)),), (GoldenTensor("y", (1,), (says,)),), atol=0, rtol=0)
    manifest = Manifest(
        schema=1,
        name="assistant",
        version=version,
        format="onnx",
        license="Apache-2.0",
        files=bundles.describe_files(folder),
        requires=Requires(memory_mb=16),
        provenance=Provenance(sources=(Source("a test"),), builder="a test", tools={}),
        golden=(golden,),
        inputs=(Tensor("x", "FP32", (1,)),),
        outputs=(Tensor("y", "FP32", (1,)),),
    )
    (folder / manifests.FILE_NAME).write_bytes(manifests.encode(manifest))
    return folder


class RealServer:
    """``hedgerow serve --config`` in a process of its own."""

    def __init__(self, device) -> None:
        self.device = device
        settings = {
            "host": "pi",
            "serial": "2" * 16,
            "fleet": device.config.fleet,
            "site": device.config.site,
            "model": "assistant",
            "models_dir": str(device.config.models_dir),
            "activation_dir": str(device.config.activation_dir),
            "control_socket": str(device.config.control_socket),
            **dict.fromkeys(("http", "https", "grpc", "grpcs")),
            "threads": 1,
        }
        self.config = device.root / "server.yml"
        self.config.write_bytes(msgspec.yaml.encode(settings))
        self.process = None

    def start(self) -> None:
        command = [sys.executable, "-m", "hedgerow.cli", "serve", "--config", str(self.config)]
        with (self.device.root / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while not self.device.config.control_socket.is_socket():
            assert self.process.poll() is None, (self.device.root / "server.log").read_text()
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.05)

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None
        if number == signal.SIGKILL:
            self.device.config.control_socket.unlink(missing_ok=True)


@pytest.fixture
def real_server(device):
    made = RealServer(device)
    made.start()
    yield made
    made.end()
    device.config.control_socket.unlink(missing_ok=True)


@pytest.fixture
def publish(registry, tmp_path):
    def call(version, *, adds, says):
        registry.publish(adder(tmp_path / "adders" / version, version, adds=adds, says=says))

    return call


@pytest.fixture
def serving(command):
    """The model that the health report names, once the server has loaded it."""

    def ask(expected):
        deadline = time.monotonic() + 20
        while True:
            model = json.loads(command("report").stdout)["model"]
            version = None if model is None else model["version"]
            if version == expected or time.monotonic() > deadline:
                return version
            time.sleep(0.1)

    return ask


def test_activate_confirm_and_revert(real_server, command, publish, serving):
    publish("2.0.0", adds=2, says=2)
    publish("2.1.0", adds=3, says=3)
    first = command("activate", "assistant@2.0.0")
    assert first.code == 0, first.stderr
    assert serving("2.0.0") == "2.0.0"
    assert command("report").json["pending"] is not None
    assert command("confirm", "assistant@2.0.0").json["changed"] is True
    assert command("report").json["pending"] is None
    assert command("activate", "assistant@2.1.0").json["previous"]["version"] == "2.0.0"
    report = command("report").json["model"]
    assert (report["version"], report["previous"]) == ("2.1.0", "2.0.0")
    assert report["sha256"] == command("activate", "assistant@2.1.0").json["model"]["sha256"]
    assert command("revert", "--reason", "slow").code == 0
    assert serving("2.0.0") == "2.0.0"


def test_a_wrong_answer_to_the_golden_input(real_server, command, publish, serving, device):
    publish("2.0.0", adds=2, says=2)
    publish("2.1.0", adds=3, says=999)
    command("activate", "assistant@2.0.0")
    command("confirm", "assistant@2.0.0")
    done = command("activate", "assistant@2.1.0")
    assert done.code == 1
    assert "golden" in done.error["what"]
    assert (serving("2.0.0"), device.current, device.pending) == ("2.0.0", "2.0.0", None)


def test_the_server_is_killed_and_comes_back_with_what_is_current(real_server, command, publish, serving):
    publish("2.0.0", adds=2, says=2)
    publish("2.1.0", adds=3, says=3)
    command("activate", "assistant@2.0.0")
    command("confirm", "assistant@2.0.0")
    command("activate", "assistant@2.1.0")
    real_server.end(signal.SIGKILL)
    down = command("report")
    assert (down.code, down.json["status"]) == (1, "failing")
    assert "server_down" in {reason["code"] for reason in down.json["reasons"]}
    assert down.json["pending"] is not None
    reverted = command("revert", "--reason", "it crashes")
    assert reverted.code == 0, reverted.stderr
    real_server.start()
    assert serving("2.0.0") == "2.0.0"


def test_a_command_that_was_killed_beside_a_running_server(real_server, command, publish, serving):
    publish("2.0.0", adds=2, says=2)
    publish("2.1.0", adds=3, says=3)
    command("activate", "assistant@2.0.0")
    command("confirm", "assistant@2.0.0")
    command("stage", "assistant@2.1.0")
    steps = command("activate", "assistant@2.1.0").steps
    command("revert")
    for step in range(1, steps + 1):
        assert command("activate", "assistant@2.1.0", kill_at=step).code == -9
        assert command("report").json["model"]["version"] in {"2.0.0", "2.1.0"}
        again = command("activate", "assistant@2.1.0")
        assert again.code == 0, (step, again.stderr)
        assert serving("2.1.0") == "2.1.0", step
        assert command("revert").code == 0
        assert serving("2.0.0") == "2.0.0", step
