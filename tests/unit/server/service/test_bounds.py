"""Bounds on bodies, heads and queues, draining, and what the server says of itself."""

from __future__ import annotations

import http.client
import json
import socket
import threading

import httpx
import pytest
import server_support as support
from server_asking import CHAT, HELLO, INFER, ROW
from server_support import Script


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_over_the_limit(client, chunked) -> None:
    body = b"x" * 100_001
    response = client.post(INFER, content=iter([body]) if chunked else body)
    assert response.status_code == 413
    assert "100000" in response.json()["error"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health/live HTTP/1.1\r\nhost: x\r\nx-large: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\n" + b"a: b\r\n" * 40_000 + b"\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nendless: " + b"a" * 400_000,
    ],
    ids=["header", "headers", "path", "endless"],
)
def test_a_head_over_the_limit(client, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=support.PATIENCE_S) as caller:
        caller.sendall(head)
        assert caller.recv(12) == b"HTTP/1.1 431"
    assert client.get("/health/live").status_code == 200


def test_a_head_that_takes_too_long(client, monkeypatch) -> None:
    monkeypatch.setattr("hedgerow.server.connection.HEAD_S", 0.05)
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=support.PATIENCE_S) as caller:
        caller.sendall(b"GET / HTTP/1.1\r\nhost:")
        assert caller.recv(12) == b"HTTP/1.1 408"


def test_a_connection_serves_many_requests_of_any_size(client) -> None:
    """The bound is on a head, not on a connection."""
    connection = http.client.HTTPConnection("127.0.0.1", client.server.port, timeout=support.PATIENCE_S)
    for _ in range(4):
        connection.request("POST", INFER, json.dumps({"inputs": [ROW]}) + " " * 90_000)
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["outputs"][0]["data"]) == (200, [2.0, 3.0])
    connection.close()


def test_over_the_queue_generations_are_sent_away(serve) -> None:
    gate = threading.Semaphore(0)
    script = Script(["x"], gate=gate)
    client = serve(script, generations=1, queue=1)
    asked = {"model": "assistant", "messages": HELLO}
    results: list[httpx.Response] = []
    callers = [threading.Thread(target=lambda: results.append(client.post(CHAT, json=asked))) for _ in range(2)]
    for caller in callers:
        caller.start()
    support.wait(lambda: script.open == 1 and client.server.plane.queue_depth == 1)
    refused = client.post(CHAT, json=asked)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    gate.release(10)
    for caller in callers:
        caller.join()
    assert [result.status_code for result in results] == [200, 200]


def test_over_the_queue_inferences_are_sent_away(serve) -> None:
    client = serve(queue=1)
    backend = client.server.plane.served("add").backend
    gate, infer = threading.Semaphore(0), backend.infer

    def slow(*arguments):
        assert gate.acquire(timeout=support.PATIENCE_S)
        return infer(*arguments)

    backend.infer = slow
    results: list[httpx.Response] = []
    asked = {"inputs": [ROW]}
    callers = [threading.Thread(target=lambda: results.append(client.post(INFER, json=asked))) for _ in range(3)]
    for caller in callers:
        caller.start()
    support.wait(lambda: client.server.plane.queue_depth == 1)
    refused = client.post(INFER, json=asked)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert client.get("/health/live").status_code == 200
    gate.release(10)
    for caller in callers:
        caller.join()
    assert [result.status_code for result in results] == [200] * 3


def test_a_server_that_is_drained_says_so(serve) -> None:
    client = serve()
    client.server.plane.stopping = True
    assert client.get("/health/live").status_code == 200
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["add", "assistant"]
    assert client.get("/health/ready").status_code == client.get("/v2/health/ready").status_code == 503
    for path, asked in ((CHAT, {"model": "assistant", "messages": HELLO}), (INFER, {"inputs": [ROW]})):
        refused = client.post(path, json=asked)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert "draining" in [reason["code"] for reason in client.get("/health/report").json()["reasons"]]


def test_what_runs_when_a_server_is_drained_ends_as_it_would(serve) -> None:
    client = serve()
    backend = client.server.plane.served("add").backend
    gate, infer = threading.Semaphore(0), backend.infer

    def slow(*arguments):
        assert gate.acquire(timeout=support.PATIENCE_S)
        return infer(*arguments)

    backend.infer = slow
    results: list[httpx.Response] = []
    caller = threading.Thread(target=lambda: results.append(client.post(INFER, json={"inputs": [ROW]})))
    caller.start()
    support.wait(lambda: client.server.plane.inflight == 1)
    client.server.plane.stopping = True
    assert client.post(INFER, json={"inputs": [ROW]}).status_code == 503
    assert client.server.plane.inflight == 1
    gate.release()
    caller.join()
    assert (results[0].status_code, client.server.plane.inflight) == (200, 0)


# ── what it says of itself ──────────────────────────────────────────────────


def test_requests_are_counted_once_with_bounded_labels(serve) -> None:
    client = serve()
    client.post(CHAT, json={"model": "assistant", "messages": HELLO})
    client.post(INFER, json={"inputs": [ROW]})
    client.post(INFER, json={"inputs": []})
    for number in range(3):
        client.post(f"/v2/models/made-up-{number}/infer", json={"inputs": [ROW]})
    lines = client.get("/metrics").text.splitlines()
    counted = sorted(line for line in lines if line.startswith("hedgerow_server_requests_total{"))
    assert counted == [
        'hedgerow_server_requests_total{code="200",model="add",protocol="oip",version="1.0.0"} 1.0',
        'hedgerow_server_requests_total{code="200",model="assistant",protocol="openai",version="1.0.0"} 1.0',
        'hedgerow_server_requests_total{code="400",model="add",protocol="oip",version="1.0.0"} 1.0',
        'hedgerow_server_requests_total{code="404",model="unknown",protocol="oip",version=""} 3.0',
    ]
    assert 'hedgerow_server_tokens_total{kind="generated",model="assistant"} 3.0' in lines
    assert "hedgerow_server_inflight 0.0" in lines
    assert "hedgerow_server_queue_depth 0.0" in lines
    figures = client.get("/health/report").json()["serving"]
    assert (figures["requests"], figures["errors"]) == (6, 0)
