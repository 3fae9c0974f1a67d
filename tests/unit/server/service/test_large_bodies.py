"""Large bodies, which go past the parser: any size, in any pieces, cut short."""

from __future__ import annotations

import http.client
import json
import socket
import time

import numpy as np
import pytest
import server_support as support
from server_asking import INFER, ROW

from hedgerow.server import intake
from hedgerow.server.protocols import bodies


def tensor(values: np.ndarray, pad: str = "") -> tuple[bytes, dict[str, str]]:
    """A binary request, its JSON padded so that the tensor begins somewhere else; its headers."""
    described = {"name": "x", "shape": list(values.shape), "datatype": "FP32"}
    described["parameters"] = {"binary_data_size": values.nbytes}
    head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode() + pad.encode()
    return head + values.tobytes(), {"inference-header-content-length": str(len(head))}


def result(response: http.client.HTTPResponse) -> np.ndarray:
    assert response.status == 200, response.read()
    body = response.read()[int(response.headers["inference-header-content-length"]) :]
    return np.frombuffer(body, np.float32).reshape(-1, 2)


@pytest.mark.parametrize("pad", ["", " ", "  ", "   "])
@pytest.mark.parametrize("rows", [0, 1, 100, 40_000])
def test_tensors_of_any_size_one_after_the_other_and_none_is_another(serve, rows: int, pad: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", serve().server.port, timeout=support.PATIENCE_S)
    for number in range(3):
        values = np.full((rows, 2), number, np.float32)
        body, headers = tensor(values, pad)
        connection.request("POST", INFER, body, headers)
        assert np.array_equal(result(connection.getresponse()), values + 1)
    connection.close()


def test_bodies_in_any_pieces_with_the_next_request_behind(serve) -> None:
    values = np.arange(60_000, dtype=np.float32).reshape(-1, 2)
    body, headers = tensor(values)
    head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    request = head.encode() + body
    port = serve().server.port
    last = (values + 1).tobytes()[-100:]
    for cut in (1, len(head) - 1, len(head), len(head) + 1, len(head) + 70_001, len(request) - 1, len(request)):
        with socket.create_connection(("127.0.0.1", port), timeout=support.PATIENCE_S) as caller:
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            caller.sendall(request[:cut])
            time.sleep(0.03)
            caller.sendall(request[cut:] + request)  # the second one is pipelined
            answers = b""
            while answers.count(b"HTTP/1.1 200") < 2 or not answers.endswith(last):
                data = caller.recv(1 << 20)
                assert data
                answers += data
        for answer in answers.split(b"HTTP/1.1 200")[1:]:
            tensor_of_it = answer[-values.nbytes :]
            assert np.array_equal(np.frombuffer(tensor_of_it, np.float32).reshape(-1, 2), values + 1)


def test_a_tensor_is_copied_once_and_aligned(serve, monkeypatch) -> None:
    """All that comes after the head goes past the parser, into the memory that the model computes from."""
    client = serve()
    seen: list[tuple[bool, int]] = []
    backend = client.server.plane.served("add").backend
    infer = backend.infer
    backend.infer = lambda arrays, outputs, run: (
        seen.append((arrays["x"].flags.owndata, arrays["x"].ctypes.data % 64)) or infer(arrays, outputs, run)
    )
    pieces: list[int] = []
    monkeypatch.setattr(intake.FillingProtocol, "on_body", lambda self, body: pieces.append(len(body)))
    values = np.ones((200_000, 2), np.float32)
    body, headers = tensor(values, pad=" ")
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=support.PATIENCE_S) as caller:
        head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        caller.sendall(head.encode() + b"\r\n")
        time.sleep(0.1)
        caller.sendall(body)
        response = http.client.HTTPResponse(caller)
        response.begin()
        assert np.array_equal(result(response), values + 1)
    assert (seen, pieces) == ([(False, 0)], [])


def test_of_a_body_that_comes_with_its_head_little_goes_through_the_parser(serve, monkeypatch) -> None:
    """Nothing more is read until it is known where it belongs; the rest is read to there."""
    client = serve()
    read: list[int] = []
    received = intake.FillingProtocol.data_received
    monkeypatch.setattr(
        intake.FillingProtocol, "data_received", lambda self, data: (read.append(len(data)), received(self, data))[1]
    )
    values = np.ones((200_000, 2), np.float32)
    body, headers = tensor(values)
    response = client.post(INFER, content=body, headers=headers)
    assert response.status_code == 200
    assert sum(read) <= 2 * 16 * 1024
    # Who reads a body as usual gets all of it; and one that nobody reads is gone before the next request.
    assert client.post("/v2/health/live", content=body).status_code == 405
    assert client.post(INFER, content=(body[at : at + 50_000] for at in range(0, len(body), 50_000)), headers=headers)
    assert client.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize("coding", [{}, {"transfer-encoding": "chunked"}])
def test_a_body_that_stops_coming(serve, monkeypatch, coding) -> None:
    monkeypatch.setattr(intake, "IDLE_S", 0.05)
    monkeypatch.setattr(bodies, "IDLE_S", 0.05)
    client = serve()
    length = coding or {"content-length": "1000000"}
    head = "".join(f"{name}: {value}\r\n" for name, value in length.items())
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=support.PATIENCE_S) as caller:
        caller.sendall(f"POST {INFER} HTTP/1.1\r\nhost: x\r\n{head}\r\n5\r\nabcde\r\n".encode())
        response = http.client.HTTPResponse(caller)
        response.begin()
        assert (response.status, "nothing of the body has come" in response.read().decode()) == (408, True)


def test_a_caller_who_hangs_up_within_a_body(serve) -> None:
    client = serve()
    for sent in (b"", b"{" * 100_000):
        with socket.create_connection(("127.0.0.1", client.server.port), timeout=support.PATIENCE_S) as caller:
            caller.sendall(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n".encode() + sent)
    assert client.post(INFER, json={"inputs": [ROW]}).status_code == 200


def test_who_asks_before_sending_is_told_to(serve) -> None:
    body, headers = tensor(np.ones((30_000, 2), np.float32))
    head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nexpect: 100-continue\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", serve().server.port), timeout=support.PATIENCE_S) as caller:
        caller.sendall(head.encode() + b"\r\n")
        assert caller.recv(100).startswith(b"HTTP/1.1 100")
        caller.sendall(body)
        response = http.client.HTTPResponse(caller)
        response.begin()
        assert result(response).shape == (30_000, 2)


def test_large_json_is_refused_where_binary_would_do(serve) -> None:
    client = serve(json_bytes=1000)
    body = json.dumps({"inputs": [ROW]}).encode() + b" " * 1000
    refused = client.post(INFER, content=body)
    assert (refused.status_code, "send large tensors as binary data" in refused.json()["error"]) == (413, True)


def test_conversations_and_tensors_are_told_apart(client) -> None:
    response = client.post("/v2/models/assistant/infer", json={"inputs": [ROW]})
    assert (response.status_code, "POST /v2/models/assistant/generate" in response.json()["error"]) == (400, True)
