"""A repository in Triton's layout, driven by ``tritonclient.http``, unmodified."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.conformance
support = sys.modules["server_support"]

CONFIGURED = """
name: "scores"
platform: "onnxruntime_onnx"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" } ]
version_policy: { all { } }
dynamic_batching { max_queue_delay_microseconds: 100 }
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the models lie."""
    folder = tmp_path / "models"
    for version in (1, 2):
        support.write_add(folder / "scores" / str(version), float(version))
        support.write_add(folder / "add" / str(version), float(version))
    (folder / "scores" / "config.pbtxt").write_text(CONFIGURED)
    (folder / "scores" / "labels.txt").write_text("cat\ndog\n")
    return folder


@pytest.fixture
def port(home: Path, tmp_path: Path):
    number = support.free_port()
    address = f"127.0.0.1:{number}"
    process = support.Process(tmp_path, "--repository", str(home), "--http", address, "--grpc", "none")
    try:
        process.until(lambda: support.answers(number) == 200, "ready")
        yield number
    finally:
        process.close()


@pytest.fixture
def client(port: int):
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield client


def added(client, model: str, version: str = "") -> tuple[str, float]:
    sent = triton.InferInput("x", [1, 2], "FP32")
    sent.set_data_from_numpy(np.zeros((1, 2), np.float32))
    got = client.infer(model, [sent], model_version=version)
    return got.get_response()["model_version"], float(got.as_numpy("y")[0, 0])


def index(client) -> dict[tuple[str, str], str]:
    return {(each["name"], each["version"]): each["state"] for each in client.get_model_repository_index()}


def test_versions_by_policy(client) -> None:
    assert client.get_model_metadata("scores")["versions"] == ["1", "2"]
    assert client.get_model_metadata("add")["versions"] == ["2"]
    assert [added(client, "scores", version) for version in ("", "1", "2")] == [("2", 2.0), ("1", 1.0), ("2", 2.0)]
    with pytest.raises(InferenceServerException, match="in version 2, not 1"):
        added(client, "add", "1")
    config = client.get_model_config("scores")
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (4, [2])
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 100
    assert "dynamic_batching" not in client.get_model_config("add")


def test_a_configurations_labels_and_bound(client) -> None:
    sent = triton.InferInput("x", [2, 2], "FP32")
    sent.set_data_from_numpy(np.array([[1, 5], [3, 2]], np.float32))
    got = client.infer("scores", [sent], outputs=[triton.InferRequestedOutput("y", class_count=1)])
    assert got.as_numpy("y").tolist() == [[b"7.000000:1:dog"], [b"5.000000:0:cat"]]
    sent = triton.InferInput("x", [5, 2], "FP32")
    sent.set_data_from_numpy(np.zeros((5, 2), np.float32))
    with pytest.raises(InferenceServerException, match="the batch has 5 rows; model 'scores' takes 4"):
        client.infer("scores", [sent])


def test_index_unload_and_load(client) -> None:
    assert index(client) == {
        ("add", "1"): "UNAVAILABLE",
        ("add", "2"): "READY",
        ("scores", "1"): "READY",
        ("scores", "2"): "READY",
    }
    client.unload_model("add", unload_dependents=True)
    assert not client.is_model_ready("add")
    assert client.is_server_ready()
    assert index(client)["add", "2"] == "UNAVAILABLE"
    with pytest.raises(InferenceServerException, match="'add' is not served here"):
        added(client, "add")
    client.load_model("add")
    assert added(client, "add") == ("2", 2.0)


@pytest.mark.parametrize("model", ["nobody", ".."])
def test_what_is_not_there_cannot_be_loaded(client, model: str) -> None:
    with pytest.raises(InferenceServerException):
        client.load_model(model)


def test_a_configuration_in_a_load_is_refused_by_name(client) -> None:
    with pytest.raises(InferenceServerException, match="config") as caught:
        client.load_model("add", config=json.dumps({"max_batch_size": 1}))
    assert caught.value.status() == "400"


def test_a_corrupt_version_leaves_the_old_one(client, home: Path) -> None:
    support.write_add(home / "add" / "3", 3.0)
    (home / "add" / "3" / "model.onnx").write_bytes(b"junk")
    with pytest.raises(InferenceServerException, match=r"add cannot be served: 3: .*INVALID_PROTOBUF") as caught:
        client.load_model("add")
    assert caught.value.status() == "400"
    assert added(client, "add") == ("2", 2.0)


def test_where_time_went(client) -> None:
    for _ in range(3):
        added(client, "add")
    (figures,) = client.get_inference_statistics("add")["model_stats"]
    assert (figures["name"], figures["version"]) == ("add", "2")
    assert (figures["inference_count"], figures["execution_count"]) == (3, 3)
    assert figures["inference_stats"]["success"]["count"] == 3
    assert figures["inference_stats"]["success"]["ns"] >= figures["inference_stats"]["compute_infer"]["ns"] > 0
    names = [(each["name"], each["version"]) for each in client.get_inference_statistics()["model_stats"]]
    assert sorted(names) == [("add", "2"), ("scores", "1"), ("scores", "2")]


def test_swaps_under_load_lose_no_request_and_answer_none_wrongly(client, home: Path, port: int) -> None:
    wrong: list[object] = []
    seen: set[str] = set()
    counts = [0] * 4
    ended = threading.Event()

    def hammer(number: int) -> None:
        """tritonclient's greenlets bear no threads, so the load comes by another client."""
        row = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [number, number]}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=support.PATIENCE_S) as caller:
            while not ended.is_set():
                answer = caller.post("/v2/models/add/infer", json={"inputs": [row]})
                said = answer.json()
                if answer.status_code != 200 or said["outputs"][0]["data"][0] != number + float(said["model_version"]):
                    wrong.append(said)
                    return
                seen.add(said["model_version"])
                counts[number] += 1

    callers = [threading.Thread(target=hammer, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    try:
        support.wait(lambda: wrong or seen)
        for version in range(3, 9):
            support.write_add(home / "add" / str(version), float(version))
            client.load_model("add")
            before = sum(counts)
            support.wait(lambda before=before: wrong or sum(counts) > before + 20)
    finally:
        ended.set()
        for caller in callers:
            caller.join()
    assert wrong == []
    assert seen == {str(version) for version in range(2, 9)}
