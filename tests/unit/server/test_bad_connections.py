"""Connections whose callers are slow, endless, ambiguous, or speak something else."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

import pytest
import server_support as support
from server_support import Script, served

from hedgerow.server import backends, connection, intake
from hedgerow.server.config import Limits
from hedgerow.server.models import Slot
from hedgerow.server.protocols import bodies

INFER = "/v2/models/add/infer"
# Each route that reads a body, by each of the readers' callers.
WITH_BODIES = [
    INFER,
    "/v2/models/assistant/generate",
    "/v2/models/assistant/generate_stream",
    "/v1/chat/completions",
    "/v1/completions",
    "/v2/repository/index",
    "/v2/repository/models/add/load",
    "/v2/repository/models/add/unload",
]
ROW = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
HOST = b"host: x\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = support.write_add(tmp_path_factory.mktemp("add"), 1.0)

    def prepare(plane: Any) -> None:
        plane._slots["add"] = Slot("add", served(backends.load(folder, threads=1), "add"))
        plane._slots["assistant"] = Slot("assistant", served(Script(["Hi"])))

    running = support.InProcess(prepare, folder, Limits(body_bytes=1 << 20))
    yield running
    running.close()


@pytest.fixture
def connect(server):
    """``connect()`` → a socket to the server; afterwards the server must answer others as ever."""
    opened: list[socket.socket] = []

    def one() -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", server.port), timeout=support.PATIENCE_S))
        return opened[-1]

    yield one
    for each in opened:
        each.close()
    healthy = http.client.HTTPConnection("127.0.0.1", server.port, timeout=support.PATIENCE_S)
    assert support.ask(healthy, INFER, ROW)[1]["outputs"][0]["data"] == [2.0, 3.0]


def answered(caller: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(caller)
    response.begin()
    return response


def ended(caller: socket.socket) -> bool:
    """Whether the server ends the connection; waits for it."""
    try:
        while caller.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return True


def sending(caller: socket.socket, size: int) -> socket.socket:
    """The caller, once the server waits for his body."""
    head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\nexpect: 100-continue\r\n\r\n"
    caller.sendall(head.encode())
    assert caller.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    return caller


# ── slow ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", WITH_BODIES)
@pytest.mark.parametrize("length", ["content-length: 1000000", "transfer-encoding: chunked"])
def test_a_body_that_stops_coming_ends_on_every_route(connect, monkeypatch, path: str, length: str) -> None:
    if "repository" in path:  # their own bound is less
        length = length.replace("1000000", "1000")
    monkeypatch.setattr(intake, "IDLE_S", 0.05)
    monkeypatch.setattr(bodies, "IDLE_S", 0.05)
    caller = connect()
    caller.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n5\r\nabcde\r\n".encode())
    response = answered(caller)
    error = json.loads(response.read())["error"]
    assert (response.status, "of the body has come" in str(error)) == (408, True)


@pytest.mark.parametrize("length", [b"content-length: 1000000", b"transfer-encoding: chunked"])
def test_a_body_that_trickles_without_an_end_is_ended(connect, monkeypatch, length: bytes) -> None:
    """Each pause is short; all of it is slower than a byte may be."""
    monkeypatch.setattr(intake, "allowed_s", lambda size: 0.2 + size / 1e6)
    monkeypatch.setattr(bodies, "allowed_s", lambda size: 0.2 + size / 1e6)
    caller = connect()
    caller.sendall(b"POST " + INFER.encode() + b" HTTP/1.1\r\n" + HOST + length + b"\r\n\r\n")
    caller.settimeout(0.01)
    sent = 0
    answer = b""
    while not answer:
        assert sent < 100_000, "it goes on for ever"
        try:
            caller.sendall(b"1\r\n \r\n")
            sent += 1
            answer = caller.recv(12)
        except TimeoutError:
            continue
    assert answer == b"HTTP/1.1 408"


def test_the_time_for_a_body_grows_with_what_has_come() -> None:
    times = [intake.allowed_s(size) for size in (0, 1 << 20, 64 << 20)]
    assert times[0] == intake.IDLE_S
    assert times == sorted(set(times))
    assert times[-1] < 2 * 3600


@pytest.mark.parametrize("first", [b"", b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n"], ids=["at once", "later"])
def test_empty_lines_hold_no_connection(connect, monkeypatch, first: bytes) -> None:
    """They are no request, so no head's deadline is set by them; but what waits for the next request sees data."""
    monkeypatch.setattr(connection, "HEAD_S", 0.2)
    caller = connect()
    if first:
        caller.sendall(first)
        assert answered(caller).read() == b"live\n"
    caller.sendall(b"\r\n")
    response = answered(caller)
    assert (response.status, ended(caller)) == (408, True)


@pytest.mark.parametrize("path", ["/health/live", "/nothing", INFER])
@pytest.mark.parametrize("length", [b"content-length: 1000000000000", b"transfer-encoding: chunked"])
def test_a_body_that_nobody_reads_holds_no_connection(connect, monkeypatch, path: str, length: bytes) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.3)
    monkeypatch.setattr(intake, "IDLE_S", 0.1)
    monkeypatch.setattr(bodies, "IDLE_S", 0.1)
    method = b"POST" if path == INFER else b"GET"
    caller = connect()
    caller.sendall(method + b" " + path.encode() + b" HTTP/1.1\r\n" + HOST + length + b"\r\n\r\n")
    assert answered(caller).read()
    caller.settimeout(0.05)
    for _ in range(10_000):  # a drop now and then, so that the connection never seems to be idle
        try:
            caller.sendall(b"1\r\n \r\n")
            if not caller.recv(1):
                return
        except TimeoutError:
            continue
        except OSError:
            return
    pytest.fail("it is held for ever")


# ── many ────────────────────────────────────────────────────────────────────


def test_who_waits_longest_makes_room(connect, monkeypatch) -> None:
    monkeypatch.setattr(connection, "CONNECTIONS", 8)
    first = connect()
    first.sendall(b"GET /health/live HTTP/1.1\r\n" + HOST)
    body = json.dumps(ROW).encode()
    busy = sending(connect(), len(body))  # nobody who is being served is cut off for somebody who asks nothing
    busy.sendall(body[:-1])
    others = [connect() for _ in range(100)]
    assert ended(first)
    assert [ended(each) for each in others[:50]] == [True] * 50
    last = connect()
    last.sendall(b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n")
    assert answered(last).read() == b"live\n"
    busy.sendall(body[-1:])
    assert json.loads(answered(busy).read())["outputs"][0]["data"] == [2.0, 3.0]


def test_where_all_are_busy_no_more_are_let_in(connect, monkeypatch) -> None:
    monkeypatch.setattr(connection, "CONNECTIONS", 3)
    busy = [sending(connect(), 100) for _ in range(3)]
    assert ended(connect())
    for each in busy:
        each.close()


# ── endless ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "chunk",
    [
        b"0\r\n" + b"a: b\r\n" * 100_000,
        b"0\r\na: " + b"b" * 500_000,
        b"5;" + b"x" * 500_000,
        b"0" * 500_000,
    ],
    ids=["trailers", "trailer", "extension", "size"],
)
@pytest.mark.parametrize("path", [INFER, "/v1/completions"])
def test_what_stands_between_chunks_is_bounded(connect, path: str, chunk: bytes) -> None:
    caller = connect()
    caller.sendall(b"POST " + path.encode() + b" HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n")
    try:
        caller.sendall(chunk)
        assert answered(caller).status in {400, 431}
    except OSError:  # it hung up while we were sending
        pass
    assert ended(caller)


def test_chunks_with_small_extensions_and_trailers_are_read(connect) -> None:
    body = json.dumps(ROW).encode()
    chunks = b"".join(b"1;name=value\r\n" + bytes([each]) + b"\r\n" for each in body)
    caller = connect()
    head = b"POST " + INFER.encode() + b" HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n"
    for _ in range(2):
        caller.sendall(head + chunks * 1 + b"0\r\nchecksum: 1\r\n\r\n")
        assert json.loads(answered(caller).read())["outputs"][0]["data"] == [2.0, 3.0]


# ── ambiguous, or something else ────────────────────────────────────────────


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: 0x10\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\nhello",
        b"POST /v2 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"POST /v2 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"GET /v2 HTTP/1.1\r\nhost : x\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nhost: x\r\na: b\0c\r\n\r\n",
        b"GET /v2 HTTP/9.9\r\nhost: x\r\n\r\n",
        b"GET /v2/\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 100,
        b"{}\r\n\r\n",
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_and_hung_up_on(connect, request_: bytes) -> None:
    caller = connect()
    caller.sendall(request_ + b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
    response = answered(caller)
    assert (response.status, response.headers["connection"]) == (400, "close")
    assert response.headers["content-type"] == "application/json"
    assert json.loads(response.read())["error"].startswith("Bad Request: ")
    assert ended(caller)


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"\xff"])
def test_nothing_else_is_spoken_on_a_connection(connect, protocol: bytes) -> None:
    """The request is answered as it is; the parser reads no further, so the connection ends."""
    caller = connect()
    head = b"GET /health/live HTTP/1.1\r\n" + HOST + b"connection: upgrade\r\nupgrade: " + protocol + b"\r\n\r\n"
    caller.sendall(head + b"\x81\x05hello")
    response = answered(caller)
    assert (response.status, response.headers["connection"], response.read()) == (200, "close", b"live\n")
    assert ended(caller)


@pytest.mark.parametrize("path", ["/v2/", "/health/live/", "//evil.example/", "/v2/models/add/"])
@pytest.mark.parametrize("host", ["evil.example", "[", "", "a b"])
def test_nobody_is_sent_elsewhere(connect, path: str, host: str) -> None:
    caller = connect()
    caller.sendall(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    response = answered(caller)
    assert (response.status, response.headers["location"]) == (404, None)
    assert "evil" not in response.read().decode().replace(path, "")


def test_whoever_sends_no_http_fills_no_journal(connect, caplog) -> None:
    for request_ in (b"\0\r\n\r\n", b"GET /v2 HTTP/1.1\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"):
        caller = connect()
        caller.sendall(request_)
        assert ended(caller)
    assert caplog.records == []
