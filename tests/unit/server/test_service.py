"""The HTTP side over real sockets, in this process: what it answers, what it refuses, when it stops."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import time
import zlib

import httpx
import numpy as np
import pytest
import server_support as support
from server_support import Script, served

from hedgerow.server import backends, intake
from hedgerow.server.config import Limits
from hedgerow.server.models import Slot
from hedgerow.server.protocols import bodies
from hedgerow.server.replying import ReplyingProtocol

CHAT = "/v1/chat/completions"
COMPLETE = "/v1/completions"
INFER = "/v2/models/add/infer"
HELLO = [{"role": "user", "content": "hello"}]
ROW = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}


@pytest.fixture
def serve(tmp_path, running):
    """``serve(script)`` → a client of a server with the script as ``assistant`` and a real model as ``add``."""
    support.write_add(tmp_path / "add", 1.0)

    def start(script: Script | None = None, **limits) -> httpx.Client:
        def prepare(plane) -> None:
            plane._slots["add"] = Slot("add", served(backends.load(tmp_path / "add", threads=1), "add"))
            plane._slots["assistant"] = Slot("assistant", served(script or Script(["Hi", " there", "."])))

        server = support.InProcess(prepare, tmp_path, Limits(**limits))
        client = httpx.Client(base_url=server.url, timeout=support.PATIENCE_S)
        client.server = server
        running.insert(0, client)
        running.insert(0, server)
        return client

    return start


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """One server for all that only ask."""
    folder = tmp_path_factory.mktemp("add")
    support.write_add(folder, 1.0)

    def prepare(plane) -> None:
        plane._slots["add"] = Slot("add", served(backends.load(folder, threads=1), "add"))
        plane._slots["assistant"] = Slot("assistant", served(Script(["Hi", " there", "."])))

    server = support.InProcess(prepare, folder, Limits(body_bytes=100_000))
    with httpx.Client(base_url=server.url, timeout=support.PATIENCE_S) as client:
        client.server = server
        yield client
    server.close()


def events(response: httpx.Response) -> list[object]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


# ── OpenAI ──────────────────────────────────────────────────────────────────


def test_a_whole_answer(client) -> None:
    answer = client.post(CHAT, json={"model": "assistant", "messages": HELLO}).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hi there."},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream(client, usage) -> None:
    asked = {"model": "assistant", "messages": HELLO, "stream": True, "stream_options": {"include_usage": usage}}
    response = client.post(CHAT, json=asked)
    assert response.headers["content-type"].startswith("text/event-stream")
    said = events(response)
    assert said.pop() == "[DONE]"
    if usage:
        assert said.pop()["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    choices = [event["choices"][0] for event in said]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert [choice["delta"].get("content", "") for choice in choices] == ["", "Hi", " there", ".", ""]
    assert [choice["finish_reason"] for choice in choices] == [None] * 4 + ["stop"]
    assert len({event["id"] for event in said}) == 1


@pytest.mark.parametrize(
    "request_, finish, text",
    [
        ({"max_tokens": 2}, "length", "Hi there"),
        ({"max_completion_tokens": 1}, "length", "Hi"),
        ({"stop": "re."}, "stop", "Hi the"),
        ({"stop": ["zz", "i t"]}, "stop", "H"),
        ({"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "user": "me", "stop": None}, "stop", "Hi there."),
    ],
)
def test_how_answers_end(client, request_, finish, text) -> None:
    choice = client.post(CHAT, json={"model": "assistant", "messages": HELLO, **request_}).json()["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == (finish, text)


def test_the_backend_gets_what_was_asked(serve) -> None:
    script = Script(["x"])
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    asked = {"temperature": 0.5, "top_p": 0.25, "seed": -3, "max_tokens": 9, "stop": ["q"]}
    assert serve(script).post(CHAT, json={"model": "assistant", "messages": messages, **asked}).status_code == 200
    begun = script.begun[0]
    assert begun.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "ab"}]
    assert (begun.temperature, begun.top_p, begun.seed, begun.max_tokens, begun.stop) == (0.5, 0.25, -3, 9, ("q",))


@pytest.mark.parametrize(
    "change, status, param",
    [
        ({"n": 2}, 400, "n"),
        ({"tools": []}, 400, "tools"),
        ({"logit_bias": {}}, 400, "logit_bias"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty"),
        ({"temperature": 3}, 400, "temperature"),
        ({"temperature": "warm"}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 99_999}, 400, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 3}, 400, "max_tokens"),
        ({"stop": [""]}, 400, "stop"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, 400, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "name": "me"}]}, 400, "messages[0].name"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content[0].type"),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "stop"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"top_logprobs": 2}, 400, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format.type"),
        ({"tool_choice": "auto"}, 400, "tool_choice"),
        ({"service_tier": "gold"}, 400, "service_tier"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, 400, "stream_options.include_obfuscation"),
        ({"prompt": "x"}, 400, "prompt"),
        ({"model": "nobody"}, 404, None),
        ({"model": "add"}, 400, "model"),
        ({"model": 3}, 400, "model"),
    ],
)
def test_what_is_refused_is_named(client, change, status, param) -> None:
    response = client.post(CHAT, json={"model": "assistant", "messages": HELLO, **change})
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (status, "invalid_request_error")
    if param is not None:
        assert error["param"] == param
    assert error["message"]


def test_a_whole_completion(client) -> None:
    answer = client.post(COMPLETE, json={"model": "assistant", "prompt": "Say hi:"}).json()
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "text": "Hi there.", "finish_reason": "stop", "logprobs": None}]
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


@pytest.mark.parametrize("usage", [True, False])
def test_a_streamed_completion(client, usage) -> None:
    asked = {"model": "assistant", "prompt": ["x"], "stream": True, "stream_options": {"include_usage": usage}}
    said = events(client.post(COMPLETE, json=asked))
    assert said.pop() == "[DONE]"
    if usage:
        last = said.pop()
        assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 3)
    assert {event["object"] for event in said} == {"text_completion"}
    assert [event["choices"][0]["text"] for event in said] == ["Hi", " there", ".", ""]
    assert [event["choices"][0]["finish_reason"] for event in said] == [None] * 3 + ["stop"]


def test_a_completion_is_the_text_itself(serve) -> None:
    script = Script(["x"])
    asked = {"model": "assistant", "prompt": "<raw>", "best_of": 1, "echo": False, "suffix": None, "logprobs": None}
    assert serve(script).post(COMPLETE, json=asked).status_code == 200
    assert (script.begun[0].prompt, script.begun[0].messages, script.begun[0].max_tokens) == ("<raw>", None, 16)


@pytest.mark.parametrize(
    "change, param",
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt[0]"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"logprobs": 0}, "logprobs"),
        ({"n": 2}, "n"),
        ({"max_completion_tokens": 3}, "max_completion_tokens"),
        ({"messages": HELLO}, "messages"),
        ({"max_tokens": 99_999}, "max_tokens"),
    ],
)
def test_what_a_completion_may_not_ask_is_named(client, change, param) -> None:
    response = client.post(COMPLETE, json={"model": "assistant", "prompt": "x", **change})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    "method, path, status, allow",
    [
        ("GET", CHAT, 405, "POST"),
        ("GET", COMPLETE, 405, "POST"),
        ("POST", "/v1/models", 405, "GET"),
        ("DELETE", "/v1/models/assistant", 405, "GET"),
        ("POST", "/v1/embeddings", 404, None),
        ("GET", "/v1/", 404, None),
    ],
)
def test_a_route_that_is_not_there_is_said_in_openais_shape(client, method: str, path: str, status: int, allow) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.headers.get("allow")) == (status, allow)
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 100_000 + b"]", b'{"model": NaN}'])
@pytest.mark.parametrize("path", [CHAT, COMPLETE, INFER])
def test_no_body_is_the_servers_fault(client, path: str, body: bytes) -> None:
    response = client.post(path, content=body)
    assert response.status_code in {400, 413}
    assert response.json()["error"]


def test_models_are_listed(client) -> None:
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["add", "assistant"]
    assert client.get("/v1/models/assistant").json()["id"] == "assistant"
    assert client.get("/v1/models/nobody").json()["error"]["code"] == "model_not_found"


def test_an_adapter_is_a_model_of_its_own(serve) -> None:
    script = Script(["x"])
    script.adapters = ("formal",)
    client = serve(script)
    listed = {model["id"]: model.get("parent") for model in client.get("/v1/models").json()["data"]}
    assert listed == {"add": None, "assistant": None, "assistant:formal": "assistant"}
    assert client.get("/v1/models/assistant:formal").json()["parent"] == "assistant"
    for model, adapter in (("assistant:formal", "formal"), ("assistant", None)):
        answer = client.post(CHAT, json={"model": model, "messages": HELLO}).json()
        assert (answer["model"], script.begun[-1].adapter) == (model, adapter)
    for model in ("assistant:none", "add:formal", "nobody:formal", ":formal"):
        refused = client.post(CHAT, json={"model": model, "messages": HELLO})
        assert refused.status_code in {400, 404}
        assert client.get(f"/v1/models/{model}").json()["error"]["code"] == "model_not_found"


def test_a_runtime_that_breaks_before_and_within_an_answer(serve) -> None:
    early = serve(Script(["a"], fails_at=0)).post(CHAT, json={"model": "assistant", "messages": HELLO, "stream": True})
    assert (early.status_code, early.json()["error"]["type"]) == (500, "server_error")
    gate = threading.Semaphore(1)
    client = serve(Script(["a", "b"], fails_at=1, gate=gate))
    asked = {"model": "assistant", "messages": HELLO, "stream": True}
    with client.stream("POST", CHAT, json=asked) as late:
        gate.release()
        late.read()
    said = events(late)
    assert late.status_code == 200
    assert said[-1]["error"]["message"] == "generation failed: the runtime broke"


# ── terms ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [True, False])
def test_the_callers_own_deadline(serve, stream) -> None:
    """Before the first token it is a 504; within a stream, which has its status already, an error at its end."""
    gate = threading.Semaphore(0)
    script = Script(["x"] * 50, gate=gate)
    client = serve(script)
    asked = {"model": "assistant", "messages": HELLO, "stream": stream}
    late = client.post(CHAT, json=asked, headers={"x-request-timeout": "0.1"})
    assert (late.status_code, late.json()["error"]["type"]) == (504, "server_error")
    assert "0.1 s were over" in late.json()["error"]["message"]
    gate.release(3)
    cut = client.post(CHAT, json={**asked, "stream": True}, headers={"x-request-timeout": "0.3"})
    assert cut.status_code == 200
    assert "tokens were made" in events(cut)[-1]["error"]["message"]
    gate.release(200)
    support.wait(lambda: script.open == 0)
    assert script.steps <= 5


def test_the_servers_own_deadline(serve) -> None:
    gate = threading.Semaphore(0)
    client = serve(Script(["x"], gate=gate), answer_s=0.1)
    asked = {"model": "assistant", "messages": HELLO}
    assert client.post(CHAT, json=asked, headers={"x-request-timeout": "60"}).status_code == 504
    gate.release(10)


@pytest.mark.parametrize("stated", ["0", "-1", "soon", "nan", "inf", ""])
def test_a_deadline_that_is_none(client, stated: str) -> None:
    asked = {"model": "assistant", "messages": HELLO}
    response = client.post(CHAT, json=asked, headers={"x-request-timeout": stated})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "x-request-timeout")


@pytest.mark.parametrize("tier, priority", [("auto", 2), ("default", 2), ("priority", 1), ("flex", 3), (None, 2)])
def test_the_tier_says_who_begins_first(serve, tier, priority: int) -> None:
    script = Script(["x"])
    asked = {"model": "assistant", "messages": HELLO, **({} if tier is None else {"service_tier": tier})}
    assert serve(script).post(CHAT, json=asked).status_code == 200
    assert script.begun[0].priority == priority


# ── leaving ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("after", [0, 1])
def test_a_client_who_hangs_up_stops_its_generation_within_a_token(serve, stream, after: int) -> None:
    """Before the first token as well as after it, streamed or not."""
    gate = threading.Semaphore(0)
    script = Script(["x"] * 1000, gate=gate)
    client = serve(script)
    body = json.dumps({"model": "assistant", "messages": HELLO, "stream": stream, "max_tokens": 900}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", client.server.port)) as caller:
        caller.sendall(head + body)
        support.wait(lambda: script.open == 1)
        for _ in range(after):
            gate.release()
        if stream and after:
            caller.recv(1)
        support.wait(lambda: script.steps == after)
    plane = client.server.plane
    support.wait(lambda: plane.inflight == 0)
    gate.release(1000)
    support.wait(lambda: script.open == 0)
    assert script.steps <= after + 1
    assert 'code="499"' in client.get("/metrics").text
    assert client.server.plane.serving_figures(restarts=None).errors == 0


def test_what_is_ready_together_is_sent_together(serve) -> None:
    gate = threading.Semaphore(0)
    script = Script(["a", "b", "c", "d"], gate=gate)
    client = serve(script)
    messages = []

    class Counting:
        def __init__(self, app) -> None:
            self.app = app

        async def __call__(self, scope, receive, send) -> None:
            async def counted(message) -> None:
                messages.append(message.get("body", b""))
                if message["type"] == "http.response.start":
                    gate.release(10)
                    await support.until(lambda: script.open == 0)
                await send(message)

            await self.app(scope, receive, counted)

    # The first piece alone, then a reader who is busy until the rest is said.
    client.server.wrap(Counting)
    gate.release()
    client.post(CHAT, json={"model": "assistant", "messages": HELLO, "stream": True})
    bodies = [body for body in messages if body]
    assert [body.count(b"data: ") for body in bodies] == [2, 5]
    assert all(event.startswith(b"data: ") for body in bodies for event in body.split(b"\n\n") if event)


# ── Open Inference Protocol ─────────────────────────────────────────────────


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


# ── large bodies, past the parser ───────────────────────────────────────────


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
    backend.infer = lambda arrays, outputs: (
        seen.append((arrays["x"].flags.owndata, arrays["x"].ctypes.data % 64)) or infer(arrays, outputs)
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


# ── bounds ──────────────────────────────────────────────────────────────────


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
