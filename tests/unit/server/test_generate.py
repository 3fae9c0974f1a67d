"""The generate extension over real sockets."""

from __future__ import annotations

import json
import socket
import threading

import httpx
import pytest
import server_support as support
from server_support import Script, served

from hedgerow.server import backends
from hedgerow.server.config import Limits
from hedgerow.server.models import Slot

WHOLE = "/v2/models/assistant/generate"
STREAM = "/v2/models/assistant/generate_stream"


@pytest.fixture
def serve(tmp_path, running):
    """``serve(script)`` → a client of a server with the script as ``assistant`` and a real model as ``add``."""
    support.write_add(tmp_path / "add", 1.0)

    def start(script: Script, **limits) -> httpx.Client:
        def prepare(plane) -> None:
            plane._slots["add"] = Slot("add", served(backends.load(tmp_path / "add", threads=1), "add"))
            plane._slots["assistant"] = Slot("assistant", served(script))

        server = support.InProcess(prepare, tmp_path, Limits(**limits))
        client = httpx.Client(base_url=server.url, timeout=support.PATIENCE_S)
        client.server = server
        running.insert(0, client)
        running.insert(0, server)
        return client

    return start


def events(response: httpx.Response) -> list[dict[str, object]]:
    return [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]


@pytest.mark.parametrize("path", [WHOLE, "/v2/models/assistant/versions/1.0.0/generate"])
def test_a_whole_answer(serve, path: str) -> None:
    answer = serve(Script(["Hi", " there"])).post(path, json={"text_input": "Say hi", "id": "7"}).json()
    assert answer == {"id": "7", "model_name": "assistant", "model_version": "1.0.0", "text_output": "Hi there"}


def test_a_stream(serve) -> None:
    response = serve(Script(["Hi", "", " there"])).post(STREAM, json={"text_input": "x"})
    assert response.headers["content-type"].startswith("text/event-stream")
    head = {"model_name": "assistant", "model_version": "1.0.0"}
    assert events(response) == [{**head, "text_output": "Hi"}, {**head, "text_output": " there"}]


def test_a_stream_that_should_be_whole(serve) -> None:
    response = serve(Script(["Hi", " there"])).post(STREAM, json={"text_input": "x", "stream": False})
    assert [event["text_output"] for event in events(response)] == ["Hi there"]


@pytest.mark.parametrize("within", [True, False])
def test_the_backend_gets_what_was_asked(serve, within) -> None:
    script = Script(["x"])
    how = {"max_tokens": 9, "temperature": 0, "top_p": 0.5, "seed": 3, "stop": ["q"]}
    body = {"text_input": "<raw>", "parameters": how} if within else {"text_input": "<raw>", **how}
    assert serve(script).post(WHOLE, json=body).status_code == 200
    begun = script.begun[0]
    assert (begun.prompt, begun.messages, begun.max_tokens, begun.temperature) == ("<raw>", None, 9, 0.0)
    assert (begun.top_p, begun.seed, begun.stop) == (0.5, 3, ("q",))


@pytest.mark.parametrize(
    "path, body, status, says",
    [
        (WHOLE, {}, 400, "text_input"),
        (WHOLE, {"text_input": 3}, 400, "text_input"),
        (WHOLE, {"text_input": "x", "top_k": 3}, 400, "top_k"),
        (WHOLE, {"text_input": "x", "parameters": {"beam_width": 3}}, 400, "beam_width"),
        (WHOLE, {"text_input": "x", "seed": 1, "parameters": {"seed": 2}}, 400, "seed stands beside text_input and"),
        (WHOLE, {"text_input": "x", "stream": True}, 400, "generate_stream"),
        (WHOLE, {"text_input": "x", "max_tokens": 99_999}, 400, "this server allows 2048"),
        (WHOLE, {"text_input": "x", "max_tokens": 0}, 400, "max_tokens"),
        (STREAM, {"text_input": "x", "temperature": 3}, 400, "temperature"),
        (STREAM, {"text_input": "x", "stop": [""]}, 400, "stop holds an empty text"),
        ("/v2/models/add/generate", {"text_input": "x"}, 400, "takes tensors: POST /v2/models/add/infer"),
        ("/v2/models/nobody/generate", {"text_input": "x"}, 404, "'nobody' is not served here"),
        ("/v2/models/nobody/generate_stream", {"text_input": "x"}, 404, "'nobody' is not served here"),
        ("/v2/models/assistant/versions/9/generate_stream", {"text_input": "x"}, 404, "in version 1.0.0, not 9"),
    ],
)
def test_what_is_refused_is_named(serve, path: str, body, status: int, says: str) -> None:
    response = serve(Script(["x"])).post(path, json=body)
    assert (response.status_code, says in response.json()["error"]) == (status, True)


def test_a_runtime_that_breaks_before_and_within_an_answer(serve) -> None:
    early = serve(Script(["a"], fails_at=0)).post(STREAM, json={"text_input": "x"})
    assert (early.status_code, early.json()["error"]) == (500, "generation failed: the runtime broke")
    gate = threading.Semaphore(1)
    with serve(Script(["a", "b"], fails_at=1, gate=gate)).stream("POST", STREAM, json={"text_input": "x"}) as late:
        gate.release()
        late.read()
    assert events(late)[-1] == {"error": "generation failed: the runtime broke"}


@pytest.mark.parametrize("path", [WHOLE, STREAM])
def test_a_client_who_hangs_up_stops_its_generation(serve, path: str) -> None:
    gate = threading.Semaphore(0)
    script = Script(["x"] * 1000, gate=gate)
    client = serve(script)
    body = b'{"text_input": "x", "max_tokens": 900}'
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", client.server.port)) as caller:
        caller.sendall(head + body)
        support.wait(lambda: script.open == 1)
    support.wait(lambda: client.server.plane.inflight == 0)
    gate.release(1000)
    support.wait(lambda: script.open == 0)
    assert script.steps <= 1
