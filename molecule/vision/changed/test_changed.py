"""After the camera left: its password is gone, the video is read on; a model comes, and its detections are counted."""

from __future__ import annotations

import base64
import io
import tarfile
import time
from datetime import UTC, datetime
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import File, GoldenTensor, GoldenTensors, Manifest, Provenance, Requires, Source

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

UNIT = "hedgerow-vision.service"
DEVICE = "/opt/hedgerow/runtime/current/bin/hedgerow-device"
HOME = "/var/lib/hedgerow/models/detector"
SIDE = 32
# Centre, width and height in the model's pixels, and how sure it is; the same whatever it is shown.
ROW = (16.0, 16.0, 8.0, 8.0, 0.75)


@pytest.fixture(autouse=True)
def watches(pi):
    if pi.name != pi.fleet.pis[0].name:
        pytest.skip("this scenario's cameras are the first Pi's")


def bundle(folder: Path, version: str) -> Path:
    """A network in YOLOv8's form with one answer: what is shown here is the way there, not a detector."""
    folder.mkdir()
    constants = [
        helper.make_tensor("row", TensorProto.FLOAT, [1, 5, 1], ROW),
        helper.make_tensor("nought", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("shape", TensorProto.INT64, [3], [1, 1, 1]),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], ["flat"]),
        helper.make_node("Mul", ["flat", "nought"], ["nothing"]),
        helper.make_node("Add", ["row", "nothing"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "one answer",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 5, 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    data = (folder / "model.onnx").read_bytes()
    size = 3 * SIDE * SIDE
    manifest = Manifest(
        schema=1,
        name="detector",
        version=version,
        format="onnx",
        license="MIT",
        files=(File("model.onnx", manifests.digest(data), len(data)),),
        requires=Requires(memory_mb=1),
        provenance=Provenance((Source("tests"),), "tests", {}),
        golden=(
            GoldenTensors(
                inputs=(GoldenTensor("images", (1, 3, SIDE, SIDE), (0.0,) * size),),
                outputs=(GoldenTensor("out", (1, 5, 1), ROW),),
                atol=1e-5,
                rtol=0.0,
            ),
        ),
    )
    (folder / manifests.FILE_NAME).write_bytes(manifests.encode(manifest))
    return folder


@pytest.fixture
def activated(pi, tmp_path):
    """Has a version in the store without a registry, and in service."""

    def activate(version: str) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            archive.add(bundle(tmp_path / version, version), arcname=version)
        text = base64.b64encode(packed.getvalue()).decode()
        pi.root(f"mkdir -p {HOME} && echo {text} | base64 -d | tar -xz -C {HOME} --no-same-owner")
        pi.root(f"{DEVICE} activate detector@{version} --json && {DEVICE} confirm detector@{version}")

    return activate


def told(pi, line: str) -> float:
    """The sample that begins with ``line``."""
    text = pi.run("curl --silent --fail --max-time 10 http://127.0.0.1:9102/metrics").stdout
    return next((float(each.rpartition(" ")[2]) for each in text.splitlines() if each.startswith(line)), 0.0)


def grows(pi, line: str, *, within_s: float = 90.0) -> None:
    before = told(pi, line)
    deadline = time.monotonic() + within_s
    while told(pi, line) <= before:
        assert time.monotonic() < deadline, f"{line} stays {before}"
        time.sleep(1)


MARKS = 'hedgerow_vision_detections_total{camera="tape",class="mark"}'


def test_the_camera_that_left_has_left_nothing(pi):
    assert pi.root("find /etc/hedgerow/vision -type f") == ""
    assert "camera-door" not in pi.root("cat /etc/nftables.conf")
    assert "LoadCredential" not in pi.root(f"systemctl cat {UNIT}")


def test_detections_are_counted_and_a_swap_needs_no_restart(pi, activated):
    pid = pi.root(f"systemctl show -p MainPID --value {UNIT}")
    activated("1.0.0")
    grows(pi, MARKS)
    # Another version goes into service beside it.
    activated("1.1.0")
    since = datetime.now(UTC)
    grows(pi, MARKS)
    assert pi.root(f"systemctl show -p MainPID --value {UNIT}") == pid, f"restarted since {since}"


def test_the_gateway_scrapes_detections(pi, gateway):
    """As Prometheus does: with the gateway's certificate, from the device exporter."""
    name = f"{pi.name}.{pi.entry.site}.{pi.fleet.fleet}"
    identity = "/var/lib/hedgerow/identity"
    text = gateway.root(
        f"curl --silent --show-error --fail --max-time 20 --resolve {name}:9101:{pi.entry.address} "
        f"--cacert {identity}/ca.crt --cert {identity}/device.crt --key {identity}/device.key "
        f"https://{name}:9101/metrics"
    )
    assert "hedgerow_device_vision_up 1.0" in text
    assert next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(MARKS)) > 0


def test_one_that_was_killed_comes_back(pi):
    pi.root(f"systemctl kill -s KILL {UNIT}")
    deadline = time.monotonic() + 60
    while not pi.service(UNIT).is_running:
        assert time.monotonic() < deadline, "it stays away"
        time.sleep(1)
    grows(pi, 'hedgerow_vision_frames_total{camera="tape",result="detected"}')
