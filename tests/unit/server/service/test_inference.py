"""Open Inference Protocol over HTTP: what is answered and refused, packed or not."""

from __future__ import annotations

import gc
import gzip
import http.client
import json
import zlib

import numpy as np
import pytest
import server_support as support
from server_asking import INFER, ROW
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from hedgerow.server.protocols import bodies
from hedgerow.server.replying import ReplyingProtocol


def test_what_a_model_is(client) -> None:
    assert {"binary_tensor_data", "classification"} <= set(client.get("/v2").json()["extensions"])
    assert client.get("/v2/health/live").status_code == client.get("/v2/health/ready").status_code == 200
    assert client.get("/v2/models/add/ready").status_code == 200
    assert client.get("/v2/models/nobody/ready").status_code == 404
    described = client.get("/v2/models/add").json()
    assert described == client.get("/v2/models/add/versions/1.0.0").json()
    assert described == {
        "name": "add",
        "versions": ["1.0.0"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
    assert client.get("/v2/models/add/versions/9").status_code == 404


def test_an_inference(client) -> None:
    answer = client.post(INFER, json={"id": "7", "inputs": [ROW], "outputs": [{"name": "y"}]}).json()
    assert answer == {
        "model_name": "add",
        "model_version": "1.0.0",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [2.0, 3.0]}],
    }


@pytest.mark.parametrize(
    "request_, says",
    [
        ({"inputs": []}, "input 'x' is missing"),
        ({"inputs": [ROW, ROW]}, "input 'x' stands twice"),
        ({"inputs": [{**ROW, "name": "z"}]}, "the model has no input 'z'; it has: x"),
        ({"inputs": [{**ROW, "datatype": "INT64"}]}, "input 'x' is FP32, not INT64"),
        ({"inputs": [{**ROW, "shape": [2, 1]}]}, "input 'x' has shape [-1, 2], not [2, 1]"),
        ({"inputs": [{**ROW, "shape": [2]}]}, "input 'x' has shape [-1, 2], not [2]"),
        ({"inputs": [{**ROW, "shape": [3, 2]}]}, "input 'x' has 2 values; shape [3, 2] wants 6"),
        ({"inputs": [{**ROW, "data": [1, None]}]}, "got `null` - at `$[1]`"),
        ({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32"}]}, "neither data nor binary_data_size"),
        ({"inputs": [{**ROW, "parameters": {"binary_data_size": 8}}]}, "both data and binary_data_size"),
        ({"inputs": [{**ROW, "parameters": {"shared_memory_region": "r"}}]}, "shared_memory_region"),
        ({"inputs": [ROW], "outputs": [{"name": "q"}]}, "the model has no output 'q'; it has: y"),
        ({"inputs": [ROW], "outputs": [{"name": "y"}, {"name": "y"}]}, "output 'y' is asked for twice"),
        ({"inputs": [ROW], "outputs": [{"name": "y", "parameters": {"classification": -1}}]}, "classification"),
        ({"inputs": [ROW], "outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]}, "shared_memory"),
        ({"inputs": [ROW], "parameters": {"priority": -1}}, "priority"),
        ({"inputs": [ROW], "parameters": {"timeout": "soon"}}, "timeout"),
        ({"inputs": [{**ROW, "shape": [0, 2**70], "data": []}]}, "which is too large"),
        ({"inputs": [ROW], "parameters": {"sequence_id": 3}}, "sequence_id"),
        ({"inputs": [ROW], "priority": 1}, "priority"),
        ({"inputs": [{**ROW, "shape": ["1", 2]}]}, "Expected `int`, got `str`"),
    ],
)
def test_malformed_inferences_are_answered_exactly(client, request_, says: str) -> None:
    response = client.post(INFER, json=request_)
    assert response.status_code == 400
    assert says in response.json()["error"]


@pytest.mark.parametrize(
    "declared, length, body, says",
    [
        (8, None, b"\0" * 7, "input 'x' wants 8 bytes; 7 are left"),
        (8, None, b"\0" * 9, "1 bytes behind the last tensor belong to none"),
        (7, None, b"\0" * 7, "input 'x' has 7 bytes; FP32 of shape [1, 2] has 8"),
        (-1, None, b"", "input 'x' wants -1 bytes"),
        (8, "9999", b"\0" * 8, "inference-header-content-length is 9999; the body has"),
        (8, "-1", b"\0" * 8, "inference-header-content-length is '-1'"),
        (8, "x", b"\0" * 8, "inference-header-content-length is 'x'"),
        (8, "3", b"\0" * 8, "the body is not JSON"),
    ],
)
def test_binary_bodies_that_lie(client, declared: int, length: str | None, body: bytes, says: str) -> None:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": declared}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": str(len(head)) if length is None else length}
    response = client.post(INFER, content=head + body, headers=headers)
    assert response.status_code == 400
    assert says in response.json()["error"]


def test_a_models_configuration(client) -> None:
    assert client.get("/v2/models/add/config").json() == client.get("/v2/models/add/versions/1.0.0/config").json()
    assert client.get("/v2/models/add/config").json() == {
        "name": "add",
        "platform": "onnx_onnxv1",
        "backend": "onnxruntime",
        "default_model_filename": "",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 0,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 2]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1, 2]}],
        "model_transaction_policy": {"decoupled": False},
    }
    assert client.get("/v2/models/nobody/config").status_code == 404


def test_the_best_classes(client) -> None:
    outputs = [{"name": "y", "parameters": {"classification": 1}}]
    answer = client.post(INFER, json={"inputs": [ROW], "outputs": outputs}).json()["outputs"]
    assert answer == [{"name": "y", "datatype": "BYTES", "shape": [1, 1], "data": ["3.000000:1"]}]


PACKED = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("coding", PACKED)
@pytest.mark.parametrize("spaces", [0, 90_000])
def test_compressed_bodies(client, coding: str, spaces: int) -> None:
    body = PACKED[coding](json.dumps({"inputs": [ROW]}).encode() + b" " * spaces)
    headers = {"content-encoding": coding, "accept-encoding": coding}
    response = client.post(INFER, content=body, headers=headers)
    assert response.json()["outputs"][0]["data"] == [2.0, 3.0]
    assert response.headers["content-encoding"] == coding


@pytest.mark.parametrize(
    "coding, body, status, says",
    [
        ("gzip", b"x" * 100, 400, "the body is not gzip"),
        ("deflate", gzip.compress(b"{}", mtime=0), 400, "the body is not deflate"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-1], 400, "the gzip body ends too early"),
        ("gzip", b"", 400, "the gzip body ends too early"),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"more", 400, "bytes stand behind the end of the gzip body"),
        ("gzip", gzip.compress(b"[" * 10_000_000, mtime=0), 413, "100000 bytes when decompressed"),
        ("br", b"x", 415, "content-encoding is br; known: gzip, deflate, identity"),
        ("gzip, gzip", b"x", 415, "content-encoding is gzip, gzip"),
    ],
)
def test_compressed_bodies_that_are_not(client, coding: str, body: bytes, status: int, says: str) -> None:
    response = client.post(INFER, content=body, headers={"content-encoding": coding})
    assert (response.status_code, says in response.json()["error"]) == (status, True)


@pytest.mark.parametrize(
    "accepted, coding",
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("GZIP;q=0.5", "gzip"),
        ("deflate, gzip;q=0", "deflate"),
        ("gzip, deflate", None),
        ("gzip;q=0", None),
        ("br", None),
        ("identity", None),
        ("*", None),
        ("", None),
    ],
)
def test_an_answer_is_compressed_for_who_asks_for_one_coding(accepted: str, coding: str | None) -> None:
    assert bodies.coding_for(accepted) == coding


@pytest.mark.parametrize(
    "method, path, status", [("GET", "/v2/nothing", 404), ("GET", INFER, 405), ("PUT", "/v2", 405)]
)
def test_what_is_no_route_is_said_in_json(client, method: str, path: str, status: int) -> None:
    response = client.request(method, path)
    assert (response.status_code, path in response.json()["error"]) == (status, True)


def test_a_failure_of_ours_is_json_and_says_nothing_of_the_request(client, monkeypatch) -> None:
    def broken(*_, **__):
        raise RuntimeError("somebody's data")

    monkeypatch.setattr(client.server.plane, "metadata", broken)
    response = client.get("/v2/models/add")
    assert (response.status_code, response.json()) == (500, {"error": "the server failed: RuntimeError"})


def test_an_answer_written_at_once_says_what_one_in_messages_says(serve, monkeypatch) -> None:
    """Head for head and byte for byte; and a connection that is to end, ends."""
    replied: list[bool] = []
    reply = ReplyingProtocol._reply
    monkeypatch.setattr(ReplyingProtocol, "_reply", lambda *given: (replied.append(reply(*given)), replied[-1])[1])
    port = serve().server.port

    def ask(**headers: str) -> tuple[list[tuple[str, str]], bytes, bool]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=support.PATIENCE_S)
        connection.request("POST", INFER, json.dumps({"inputs": [ROW]}), {"x-request-id": "0" * 32} | headers)
        response = connection.getresponse()
        found = [(name, value) for name, value in response.getheaders() if name != "date"], response.read()
        connection.close()
        return *found, response.will_close

    at_once, closing = ask(), ask(connection="close")
    monkeypatch.setattr(ReplyingProtocol, "_reply", lambda *_: False)
    assert at_once == ask()
    assert ("x-request-id", "0" * 32) in at_once[0]
    assert (closing[1], closing[2], at_once[2]) == (at_once[1], True, False)
    assert replied == [True, False]


@pytest.mark.parametrize("size", [1, 40_000])
def test_a_request_is_forgotten_with_its_answer(serve, size: int) -> None:
    """Nothing of it waits for Python's collector: the next one finds its memory, still in the processor's caches."""
    connection = http.client.HTTPConnection("127.0.0.1", serve().server.port, timeout=support.PATIENCE_S)
    values = np.zeros((size, 2), np.float32)
    head = json.dumps({"inputs": [ROW | {"shape": values.shape, "data": values.tolist()}]})
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            connection.request("POST", INFER, head)
            assert connection.getresponse().read()
        cycles = [each for each in gc.get_objects() if type(each) is RequestResponseCycle]
    finally:
        gc.enable()
    connection.close()
    assert len(cycles) <= 2  # the connection's last one, and one that just ends
