"""OpenAI's routes: answers and streams, what is refused, deadlines, and callers who leave."""

from __future__ import annotations

import json
import socket
import threading

import pytest
import server_support as support
from server_asking import CHAT, COMPLETE, HELLO, INFER, events
from server_support import Script


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


def test_probabilities_of_tokens_where_they_are_asked_for(serve) -> None:
    script = Script(["Hé", "", "!"], logprobs=True)
    client = serve(script)
    asked = {"model": "assistant", "messages": HELLO, "logprobs": True}
    (choice,) = client.post(CHAT, json=asked).json()["choices"]
    tokens = [
        {"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169], "top_logprobs": []},
        {"token": "", "logprob": -1.0, "bytes": [], "top_logprobs": []},
        {"token": "!", "logprob": -1.5, "bytes": [33], "top_logprobs": []},
    ]
    assert choice["logprobs"] == {"content": tokens, "refusal": None}
    said = events(client.post(CHAT, json=asked | {"stream": True}))
    assert [
        token for each in said[:-1] for token in (each["choices"][0]["logprobs"] or {}).get("content", [])
    ] == tokens
    (plain,) = client.post(CHAT, json=asked | {"logprobs": False}).json()["choices"]
    assert plain["logprobs"] is None
    refused = client.post(CHAT, json=asked | {"stop": "!"}).json()["error"]
    assert (refused["param"], refused["message"]) == ("logprobs", "logprobs is not supported together with stop")


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
