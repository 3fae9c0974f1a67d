"""Requests that leave, over real sockets: a server with a scripted model, and an endpoint with mutual TLS."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import queue
import signal
import socket
import sqlite3
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
import server_support as support
import tritonclient.grpc as triton
from openai_double import TOKEN, Cloud
from prometheus_client.parser import text_string_to_metric_families
from server_support import Script, served
from tritonclient.utils import InferenceServerException

from hedgerow.device import control
from hedgerow.device.health import Code
from hedgerow.errors import HedgerowError, UsageError
from hedgerow.server import run
from hedgerow.server.config import Address, Limits
from hedgerow.server.fallback.audit import Departure
from hedgerow.server.fallback.config import (
    BreakerConfig,
    CacheConfig,
    Confidence,
    EndpointConfig,
    FallbackConfig,
    Policy,
    Price,
    Privacy,
    When,
)
from hedgerow.server.fallback.ledger import Ledger
from hedgerow.server.fallback.service import Fallback
from hedgerow.server.models import Slot
from hedgerow.server.protocols.grpc.port import GrpcPort

CHAT = "/v1/chat/completions"
SAYS = "Reach me at jane@example.org, please."
PRICE = Price(prompt_per_1k=1.0, completion_per_1k=2.0)
ALWAYS = When(prompt_characters=1)


def secret(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


class Site:
    """A server with its way out; ``health`` is what its report names."""

    def __init__(self, folder, ca, running) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.health: frozenset[Code] = frozenset()
        self.running = running
        secret(folder / "token", f"{TOKEN}\n")
        support.write_device_certificate(ca, folder)
        self.cloud = Cloud(folder, ca.folder / "ca.crt")
        running.append(self.cloud)

    def config(self, *, endpoint=None, cache=None, **policy) -> FallbackConfig:
        given = {
            "url": self.cloud.url,
            "token": str(self.folder / "token"),
            "certificate": str(self.folder / "device.crt"),
            "key": str(self.folder / "device.key"),
            "ca": str(self.cloud.ca),
            "silence_s": support.PATIENCE_S,
            **(endpoint or {}),
        }
        wanted = {
            "endpoint": "cloud",
            "model": "big",
            "price": PRICE,
            "spend_per_hour": 100.0,
            "when": ALWAYS,
            "privacy": Privacy.ALL,
            **policy,
        }
        return FallbackConfig(
            endpoints={"cloud": EndpointConfig(**given)},
            models={"assistant": Policy(**wanted)},
            state_dir=self.state,
            cache=cache,
        )

    def serve(self, script: Script | None, *, limits: Limits | None = None, **settings) -> httpx.Client:
        config = self.config(**settings)

        async def health() -> frozenset[Code]:
            return self.health

        def prepare(plane) -> None:
            plane._slots["assistant"] = Slot("assistant", None if script is None else served(script))
            plane.fallback = Fallback.open(config, plane.metrics, health=health)

        bounds = limits or Limits()

        def grpc(plane) -> GrpcPort:
            return GrpcPort(plane, Address("127.0.0.1", 0), bounds, None, None)

        server = support.InProcess(prepare, self.folder, bounds, grpc=grpc)
        client = httpx.Client(base_url=server.url, timeout=support.PATIENCE_S)
        client.server = server
        self.running += [server, client]
        return client

    def stop(self, client: httpx.Client) -> None:
        self.running.remove(client.server)
        client.server.close()

    @property
    def audit(self) -> list[dict[str, object]]:
        path = self.state / "audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def written(self, count: int = 1) -> list[dict[str, object]]:
        """The audit lines, once there are ``count``."""
        support.wait(lambda: len(self.audit) >= count)
        return self.audit


@pytest.fixture
def site(tmp_path, unit_ca, running) -> Site:
    return Site(tmp_path, unit_ca, running)


def asked(content: str = SAYS, **more) -> dict[str, object]:
    return {"model": "assistant", "messages": [{"role": "user", "content": content}], **more}


def text(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def streamed(response: httpx.Response) -> list[dict[str, object]]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def said() -> list[triton.InferInput]:
    given = triton.InferInput("text_input", [1], "BYTES")
    given.set_data_from_numpy(np.array([SAYS.encode()], dtype=np.object_))
    return [given]


def over_grpc(client: httpx.Client, headers: dict[str, str] | None = None) -> str:
    """The answer to one text over gRPC."""
    with triton.InferenceServerClient(f"127.0.0.1:{client.server.grpc_port}") as caller:
        return caller.infer("assistant", said(), headers=headers).as_numpy("text_output")[0].decode()


def streamed_over_grpc(client: httpx.Client, headers: dict[str, str] | None = None) -> str:
    """The same on a stream."""
    got: queue.Queue[tuple[triton.InferResult, InferenceServerException | None]] = queue.Queue()
    with triton.InferenceServerClient(f"127.0.0.1:{client.server.grpc_port}") as caller:
        caller.start_stream(lambda result, error: got.put((result, error)), headers=headers)
        caller.async_stream_infer("assistant", said())
        parts, last = [], False
        while not last:
            result, error = got.get(timeout=support.PATIENCE_S)
            if error is not None:
                raise error
            parts.append(result.as_numpy("text_output")[0].decode())
            last = result.get_response().parameters["triton_final_response"].bool_param
    return "".join(parts)


def outcomes(client: httpx.Client) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.labels["reason"], sample.labels["outcome"]): sample.value
        for family in families
        for sample in family.samples
        if sample.name == "hedgerow_server_fallback_requests_total"
    }


# ── what leaves, and what is told of it ─────────────────────────────────────


def test_an_answer_from_the_cloud(site) -> None:
    script = Script(["from the device"])
    client = site.serve(script)
    answer = client.post(CHAT, json=asked(max_tokens=9, temperature=0.5))
    assert text(answer) == "from the cloud"
    assert answer.json()["usage"] == {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    assert script.begun == []
    (seen,) = site.cloud.seen
    assert (seen["path"], seen["body"]["model"], seen["body"]["max_tokens"]) == ("/v1/chat/completions", "big", 9)
    assert seen["headers"]["authorization"] == f"Bearer {TOKEN}"
    (line,) = site.written()
    assert line["reason"] == "prompt_length"
    assert (line["outcome"], line["prompt_tokens"], line["completion_tokens"]) == ("answered", 11, 3)
    assert (line["cost"], line["exact"]) == (0.017, True)
    assert outcomes(client) == {("prompt_length", "answered"): 1}


def test_no_secret_and_no_text_stands_anywhere(site, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    client = site.serve(Script(["x"]), cache=CacheConfig())
    site.cloud.status = 500
    client.post(CHAT, json=asked("a very particular question"))
    site.cloud.status = 200
    client.post(CHAT, json=asked("a very particular question"))
    site.written(2)
    site.stop(client)
    kept = b"".join(path.read_bytes() for path in site.state.iterdir())
    logged = "\n".join(f"{record.getMessage()} {record.args}" for record in caplog.records)
    for secret in (TOKEN, "very particular", "from the cloud"):
        assert secret.encode() not in kept
        assert secret not in logged


def test_a_stream_from_the_cloud_comes_as_it_is_made(site) -> None:
    site.cloud.gate = threading.Semaphore(1)
    client = site.serve(Script(["x"]))
    body = asked(stream=True, stream_options={"include_usage": True})
    with client.stream("POST", CHAT, json=body) as response:
        lines = response.iter_lines()
        read = [next(lines) for _ in range(3)]
        assert any('"content":"from "' in line for line in read)
        site.cloud.gate.release(100)
        rest = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert [each["choices"][0]["delta"].get("content") for each in rest if each["choices"]] == ["the ", "cloud", None]
    assert rest[-1]["usage"]["completion_tokens"] == 3


def test_raw_text_goes_to_completions(site) -> None:
    client = site.serve(Script(["x"]))
    whole = client.post("/v1/completions", json={"model": "assistant", "prompt": "Once upon"})
    assert whole.json()["choices"][0]["text"] == "from the cloud"
    generated = client.post("/v2/models/assistant/generate", json={"text_input": "Once upon"})
    assert generated.json()["text_output"] == "from the cloud"
    assert [(each["path"], each["body"]["prompt"]) for each in site.cloud.seen] == [
        ("/v1/completions", "Once upon"),
        ("/v1/completions", "Once upon"),
    ]


def test_what_is_redacted_never_leaves(site) -> None:
    client = site.serve(Script(["device"]), privacy=Privacy.REDACTED, words=["Jane Doe"])
    assert text(client.post(CHAT, json=asked(f"I am Jane Doe, card 4111 1111 1111 1111. {SAYS}"))) == "from the cloud"
    (seen,) = site.cloud.seen
    assert seen["body"]["messages"][0]["content"] == ("I am [redacted], card [card]. Reach me at [email], please.")
    (line,) = site.written()
    assert line["redactions"] == {"card": 1, "email": 1, "redacted": 1}
    assert text(client.post(CHAT, json=asked(stop=["jane@example.org"]))) == "device"
    assert outcomes(client)["prompt_length", "refused_privacy"] == 1


@pytest.mark.parametrize("settings, headers", [({"privacy": Privacy.NEVER}, {}), ({}, {"x-hedgerow-answer": "device"})])
def test_what_must_not_leave_stays(site, settings, headers) -> None:
    client = site.serve(Script(["device"]), **settings)
    assert text(client.post(CHAT, json=asked(), headers=headers)) == "device"
    generated = client.post("/v2/models/assistant/generate", json={"text_input": "x"}, headers=headers)
    assert generated.json()["text_output"] == "device"
    assert (site.cloud.seen, site.audit, outcomes(client)) == ([], [], {})


def test_a_head_that_asks_for_something_else_is_refused(site) -> None:
    answer = site.serve(Script(["x"])).post(CHAT, json=asked(), headers={"x-hedgerow-answer": "cloud"})
    assert (answer.status_code, "known: any, device" in answer.text) == (400, True)


@pytest.mark.parametrize("ask", [over_grpc, streamed_over_grpc])
def test_callers_over_grpc_say_it_by_metadata(site, ask) -> None:
    client = site.serve(Script(["device"]))
    assert ask(client) == ask(client, {"x-hedgerow-answer": "any"}) == "from the cloud"
    assert len(site.written(2)) == 2
    assert ask(client, {"x-hedgerow-answer": "device"}) == "device"
    with pytest.raises(InferenceServerException, match="x-hedgerow-answer is 'cloud'; known: any, device"):
        ask(client, {"x-hedgerow-answer": "cloud"})
    assert (len(site.cloud.seen), len(site.audit)) == (2, 2)


# ── when it leaves ──────────────────────────────────────────────────────────


def test_short_prompts_stay_and_long_ones_leave(site) -> None:
    client = site.serve(Script(["device"]), when=When(prompt_characters=100))
    assert text(client.post(CHAT, json=asked("x" * 100))) == "device"
    assert text(client.post(CHAT, json=asked("x" * 101))) == "from the cloud"


def test_while_nothing_is_in_service(site) -> None:
    client = site.serve(None, when=When(not_in_service=True))
    assert text(client.post(CHAT, json=asked())) == "from the cloud"
    generated = client.post("/v2/models/assistant/generate", json={"text_input": "x"}).json()
    assert generated == {"model_name": "assistant", "model_version": "", "text_output": "from the cloud"}
    assert over_grpc(client) == streamed_over_grpc(client) == "from the cloud"
    site.cloud.status = 500
    assert client.post(CHAT, json=asked()).status_code in {404, 503}
    for ask in (over_grpc, streamed_over_grpc):
        with pytest.raises(InferenceServerException, match=r"no model is in service here yet|is not served here"):
            ask(client)


def test_while_the_device_is_unwell(site) -> None:
    client = site.serve(Script(["device"]), when=When(health=[Code.HOT]))
    assert text(client.post(CHAT, json=asked())) == "device"
    site.health = frozenset({Code.HOT})
    assert text(client.post(CHAT, json=asked())) == "from the cloud"
    assert site.written()[0]["reason"] == "unhealthy"


SURE = Confidence(below=0.5, tokens=3)


def test_who_gets_an_unsure_answer_leaves(site) -> None:
    """The script's tokens have probabilities of e^-0.5, e^-1, e^-1.5: 0.37 on average, and 0.47 of the first two."""
    client = site.serve(Script(list("device"), logprobs=True), when=When(confidence=SURE))
    assert text(client.post(CHAT, json=asked())) == "from the cloud"
    assert site.written()[0]["reason"] == "low_confidence"
    assert outcomes(client) == {("low_confidence", "answered"): 1}
    site.cloud.status = 500
    answer = client.post(CHAT, json=asked()).json()["choices"][0]
    assert (answer["message"]["content"], answer["logprobs"]) == ("device", None), "its own, which goes on"


@pytest.mark.parametrize(
    "script, when",
    [
        (Script(list("device"), logprobs=True), Confidence(below=0.3, tokens=3)),
        (Script(list("device"), logprobs=True), Confidence(below=0.6, tokens=1)),
        (Script(list("device")), SURE),
        (Script(["device"], logprobs=True), Confidence(below=0.6, tokens=16)),
    ],
    ids=["sure", "begins surely", "nobody tells", "ends before"],
)
def test_who_gets_a_sure_answer_stays(site, script: Script, when: Confidence) -> None:
    client = site.serve(script, when=When(confidence=when))
    answer = client.post(CHAT, json=asked()).json()["choices"][0]
    assert (answer["message"]["content"], answer["logprobs"]) == ("device", None)
    assert outcomes(client) == {}
    assert script.begun[-1].logprobs is script.logprobs


def test_who_asks_for_probabilities_gets_the_devices(site) -> None:
    client = site.serve(Script(list("device"), logprobs=True), when=When(confidence=SURE))
    (choice,) = client.post(CHAT, json=asked() | {"logprobs": True}).json()["choices"]
    assert len(choice["logprobs"]["content"]) == len("device")


def test_when_the_device_fails_its_release_is_still_to_blame(site) -> None:
    client = site.serve(Script(["a"], fails_at=0), when=When(device_error=True))
    assert text(client.post(CHAT, json=asked())) == "from the cloud"
    figures = client.server.plane.serving_figures(restarts=None)
    assert (figures.requests, figures.errors) == (1, 1)
    site.cloud.status = 500
    answer = client.post(CHAT, json=asked())
    assert (answer.status_code, "the runtime broke" in answer.text) == (500, True)


def test_answers_from_elsewhere_are_not_the_releases_figures(site) -> None:
    client = site.serve(Script(["device"]), when=When(prompt_characters=100))
    client.post(CHAT, json=asked("x" * 101))
    client.post(CHAT, json=asked("x"))
    figures = client.server.plane.serving_figures(restarts=None)
    assert (figures.requests, figures.errors) == (1, 0)
    metrics = client.get("/metrics").text
    assert 'requests_total{code="200",model="assistant",protocol="openai",version="fallback"} 1.0' in metrics
    assert 'hedgerow_server_tokens_total{kind="generated",model="assistant"} 1.0' in metrics
    assert 'hedgerow_server_fallback_tokens_total{kind="prompt",model="assistant"} 11.0' in metrics


def post_on_a_thread(client: httpx.Client, body, **headers: str) -> tuple[threading.Thread, list[httpx.Response]]:
    answers: list[httpx.Response] = []
    with_own = httpx.Client(base_url=client.base_url, timeout=support.PATIENCE_S)

    def post() -> None:
        with with_own:
            answers.append(with_own.post(CHAT, json=body, headers=headers))

    thread = threading.Thread(target=post)
    thread.start()
    return thread, answers


def test_who_waits_longer_than_allowed_leaves_and_keeps_his_place_meanwhile(site) -> None:
    gate = threading.Semaphore(0)
    script = Script(["device"], gate=gate)
    client = site.serve(script, limits=Limits(generations=1), when=When(queue_s=0.01))
    # It takes the one place, and waits for none itself.
    thread, first = post_on_a_thread(client, asked(), **{"x-hedgerow-answer": "device"})
    support.wait(lambda: script.open == 1)
    assert text(client.post(CHAT, json=asked())) == "from the cloud"
    site.cloud.status = 503
    other, second = post_on_a_thread(client, asked())
    support.wait(lambda: outcomes(client).get(("queue_time", "failed")) == 1)
    # The one that runs, and the one that goes on waiting.
    assert client.server.plane._scheduler._lanes["assistant"]._inside() == 2
    gate.release(100)
    for each in (thread, other):
        each.join(support.PATIENCE_S)
    assert [text(answer) for answer in (*first, *second)] == ["device", "device"]


def test_a_full_queue_leaves(site) -> None:
    gate = threading.Semaphore(0)
    script = Script(["device"], gate=gate)
    # Longer than the test: only the queue that is full sends anything away.
    client = site.serve(script, limits=Limits(generations=1, queue=0), when=When(queue_s=3600))
    thread, _ = post_on_a_thread(client, asked())
    support.wait(lambda: script.open == 1)
    assert text(client.post(CHAT, json=asked())) == "from the cloud"
    site.cloud.status = 500
    refused = client.post(CHAT, json=asked())
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    gate.release(100)
    thread.join(support.PATIENCE_S)


# ── when the cloud does not help ────────────────────────────────────────────


@pytest.mark.parametrize("status", [301, 400, 401, 404, 429, 500, 503])
def test_an_endpoint_that_refuses_leaves_it_to_the_device(site, status) -> None:
    site.cloud.status = status
    site.cloud.headers = {"location": "/v1/completions"} if status == 301 else {}
    client = site.serve(Script(["device"]))
    assert text(client.post(CHAT, json=asked())) == "device"
    assert outcomes(client) == {("prompt_length", "failed"): 1}
    (line,) = site.written()
    assert (line["outcome"], line["cost"], line["exact"], len(site.cloud.seen)) == ("failed", 0.0, True, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "application/json"},
        {"headers": {"content-encoding": "gzip"}},
        {"events": ["no JSON"]},
        {"events": ["[DONE]"]},
        {"events": []},
        {"cut_after": 0},
    ],
)
def test_an_answer_that_is_none_leaves_it_to_the_device(site, settings) -> None:
    for name, value in settings.items():
        setattr(site.cloud, name, value)
    client = site.serve(Script(["device"]))
    assert text(client.post(CHAT, json=asked())) == "device"
    (line,) = site.written()
    # What it cost is not known, so the most that it can have stays reserved.
    assert (line["outcome"], line["exact"], line["cost"] > 0.5) == ("failed", False, True)


def test_an_endpoint_that_is_away_has_no_audit_line(site) -> None:
    client = site.serve(Script(["device"]), endpoint={"url": f"https://localhost:{support.free_port()}/v1"})
    assert text(client.post(CHAT, json=asked())) == "device"
    assert (site.audit, outcomes(client)) == ([], {("prompt_length", "failed"): 1})


def test_an_endpoint_that_another_ca_vouches_for_is_not_talked_to(site, unit_ca) -> None:
    client = site.serve(Script(["device"]), endpoint={"ca": str(unit_ca.folder / "ca.crt")})
    assert text(client.post(CHAT, json=asked())) == "device"
    assert (site.cloud.seen, site.audit) == ([], [])


def test_an_endpoint_that_does_not_know_us_is_told_nothing(site) -> None:
    ours = {"certificate": str(site.folder / "cloud.crt"), "key": str(site.folder / "cloud.key")}
    client = site.serve(Script(["device"]), endpoint=ours)
    assert text(client.post(CHAT, json=asked())) == "device"
    assert site.cloud.seen == []


def test_a_token_that_is_refused_or_gone(site) -> None:
    client = site.serve(Script(["device"]))
    (site.folder / "token").write_text("another")
    assert text(client.post(CHAT, json=asked())) == "device"
    (site.folder / "token").unlink()
    assert text(client.post(CHAT, json=asked())) == "device"
    (site.folder / "token").write_text(TOKEN)
    (site.folder / "token").chmod(0o604)
    assert text(client.post(CHAT, json=asked())) == "device"
    (site.folder / "token").chmod(0o640)
    assert text(client.post(CHAT, json=asked())) == "from the cloud"
    assert site.cloud.seen[0]["body"]["messages"]


def test_a_stream_that_breaks_says_so(site) -> None:
    site.cloud.cut_after = 1
    client = site.serve(Script(["device"]))
    response = client.post(CHAT, json=asked(stream=True))
    assert '"content":"from "' in response.text
    assert "the fallback's answer broke off" in response.text
    assert "device" not in response.text
    (line,) = site.written()
    assert (line["outcome"], line["completion_tokens"], line["exact"]) == ("broken", 1, False)


def test_a_client_who_hangs_up_ends_it_there(site) -> None:
    site.cloud.gate = threading.Semaphore(0)
    client = site.serve(Script(["device"]))
    body = json.dumps(asked()).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", client.server.port)) as caller:
        caller.sendall(head + body)
        support.wait(lambda: site.cloud.seen)
    assert site.cloud.left.wait(support.PATIENCE_S)
    (line,) = site.written()
    assert (line["outcome"], line["exact"]) == ("cancelled", False)
    support.wait(lambda: client.server.plane.inflight == 0)
    assert outcomes(client) == {("prompt_length", "cancelled"): 1}


def test_a_deadline_holds_there_too(site) -> None:
    site.cloud.gate = threading.Semaphore(0)
    client = site.serve(Script(["device"]))
    answer = client.post(CHAT, json=asked(), headers={"x-request-timeout": "0.2"})
    assert answer.status_code == 504
    assert site.written()[0]["outcome"] == "deadline"


def test_a_connection_that_never_becomes_one_is_closed(site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        client = site.serve(Script(["device"]), endpoint={"url": f"https://localhost:{deaf.getsockname()[1]}/v1"})
        body = json.dumps(asked()).encode()
        with socket.create_connection(("127.0.0.1", client.server.port)) as caller:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            caller.sendall(head + body)
            connection = deaf.accept()[0]
            with connection:
                connection.settimeout(support.PATIENCE_S)
                assert connection.recv(1)  # the handshake's first byte; the caller leaves before its answer
                caller.close()
                while connection.recv(4096):
                    pass
    support.wait(lambda: client.server.plane.inflight == 0)


def test_a_silent_endpoint_leaves_it_to_the_device(site) -> None:
    site.cloud.gate = threading.Semaphore(0)
    client = site.serve(Script(["device"]), endpoint={"silence_s": 0.2})
    assert text(client.post(CHAT, json=asked())) == "device"
    assert site.written()[0]["outcome"] == "failed"


# ── what holds it back ──────────────────────────────────────────────────────


def test_a_failing_endpoint_is_left_alone_then_tried(site) -> None:
    client = site.serve(Script(["device"]), endpoint={"breaker": BreakerConfig(failures=2, open_s=0.3)})
    site.cloud.status = 500
    for _ in range(2):
        client.post(CHAT, json=asked())
    site.cloud.status = 200
    breaker = client.server.plane.fallback.route("assistant")._remote._breaker
    assert breaker._opened is not None
    assert 'hedgerow_server_fallback_breaker_open{endpoint="cloud"} 1.0' in client.get("/metrics").text
    breaker._open_s = 3600.0
    assert text(client.post(CHAT, json=asked())) == "device"
    assert outcomes(client)["prompt_length", "refused_breaker"] == 1
    breaker._open_s = 0.0
    assert text(client.post(CHAT, json=asked())) == "from the cloud"
    assert 'hedgerow_server_fallback_breaker_open{endpoint="cloud"} 0.0' in client.get("/metrics").text


def test_a_request_that_is_wrong_does_not_open_the_breaker(site) -> None:
    client = site.serve(Script(["device"]), endpoint={"breaker": BreakerConfig(failures=1)})
    site.cloud.status = 422
    client.post(CHAT, json=asked())
    site.cloud.status = 200
    assert text(client.post(CHAT, json=asked())) == "from the cloud"


def test_the_rate_holds(site) -> None:
    client = site.serve(Script(["device"]), endpoint={"requests_per_minute": 2})
    assert [text(client.post(CHAT, json=asked())) for _ in range(3)] == ["from the cloud", "from the cloud", "device"]
    assert outcomes(client)["prompt_length", "refused_rate"] == 1


def test_the_cap_holds_over_a_restart(site) -> None:
    # A prompt of 37 bytes with its template may have 69 tokens, its answer 100: 0.269 at the most, 0.017 in the end.
    settings = {"spend_per_hour": 0.28, "when": ALWAYS}
    client = site.serve(Script(["device"]), **settings)
    assert text(client.post(CHAT, json=asked(max_tokens=100))) == "from the cloud"
    site.written()
    assert text(client.post(CHAT, json=asked(max_tokens=100))) == "device"
    assert outcomes(client)["prompt_length", "refused_spend"] == 1
    site.stop(client)
    again = site.serve(Script(["device"]), **settings)
    assert text(again.post(CHAT, json=asked(max_tokens=100))) == "device"
    assert text(again.post(CHAT, json=asked(max_tokens=50))) == "from the cloud"


def test_a_kept_answer_costs_nothing_and_needs_no_endpoint(site) -> None:
    client = site.serve(Script(["device"]), cache=CacheConfig())
    assert text(client.post(CHAT, json=asked())) == "from the cloud"
    site.written()
    support.wait(lambda: stored(site) == 1)
    site.cloud.status = 500
    again = client.post(CHAT, json=asked(stream=True))
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in streamed(again)) == "from the cloud"
    assert text(client.post(CHAT, json=asked(temperature=0.1))) == "device"
    assert len(site.cloud.seen) == 2
    assert outcomes(client)["prompt_length", "cached"] == 1


def stored(site: Site) -> int:
    with sqlite3.connect(site.state / "answers.db") as rows:
        return rows.execute("SELECT COUNT(*) FROM answers").fetchone()[0]


def test_an_answer_that_broke_is_not_kept(site) -> None:
    site.cloud.cut_after = 1
    client = site.serve(Script(["device"]), cache=CacheConfig())
    client.post(CHAT, json=asked(stream=True))
    site.written()
    site.stop(client)
    assert stored(site) == 0


def test_nothing_leaves_that_cannot_be_written_down(site, caplog) -> None:
    client = site.serve(Script(["device"]))
    (site.state / "audit.jsonl").mkdir()
    assert text(client.post(CHAT, json=asked())) == "from the cloud"
    support.wait(lambda: "nothing leaves any more" in caplog.text)
    assert text(client.post(CHAT, json=asked())) == "device"
    assert outcomes(client)["prompt_length", "refused_audit"] == 1


def test_what_a_crash_cut_off_gets_its_line(site) -> None:
    site.state.mkdir()
    book = Ledger(site.state)
    departure = Departure(
        time="2026-11-21T00:00:00Z",
        model="assistant",
        endpoint="cloud",
        endpoint_model="big",
        reason="queue_time",
        prompt_hmac_sha256="00",
        redactions={},
        bytes=1,
    )
    book.reserve(departure, 5_000_000, cap=10**9, now=0)
    book.close()
    site.serve(Script(["device"]))
    (line,) = site.audit
    assert (line["outcome"], line["cost"], line["exact"]) == ("interrupted", 5.0, False)


# ── opening ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"token": "missing"}, "cannot be used"),
        ({"certificate": "missing"}, "cannot be used"),
        ({"ca": "missing"}, "cannot be used"),
    ],
)
def test_a_file_that_is_missing_is_named(site, wrong, says) -> None:
    paths = {key: str(site.folder / name) for key, name in wrong.items()}

    async def opened() -> None:
        Fallback.open(site.config(endpoint=paths), None, health=None)

    with pytest.raises(HedgerowError, match=says) as caught:
        asyncio.run(opened())
    assert "docs/fallback.md" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_a_token_that_everybody_may_read_is_none(site) -> None:
    (site.folder / "token").chmod(0o644)

    async def opened() -> None:
        Fallback.open(site.config(), None, health=None)

    with pytest.raises(UsageError, match=r"a secret \(mode 0644\)") as caught:
        asyncio.run(opened())
    assert caught.value.where == str(site.folder / "token")
    assert str(caught.value.next_step).startswith("chmod o= ")


def test_a_device_serves_on_when_its_way_out_is_shut(site, caplog) -> None:
    class Serving:
        fallback = site.config(endpoint={"token": str(site.folder / "missing")})

    class Plane:
        metrics = None

    assert run._fallback(Serving, Plane, None) is None
    assert "nothing leaves the device" in caplog.text


def test_a_device_lets_out_what_its_configuration_says(site, running, unit_ca) -> None:
    credentials = site.folder / "credentials"
    credentials.mkdir()
    secret(credentials / "fallback.token", TOKEN)
    (credentials / "fallback-ca.crt").write_bytes(site.cloud.ca.read_bytes())
    policy = {
        "endpoint": "cloud",
        "model": "big",
        "privacy": "redacted",
        "price": {"prompt_per_1k": 1, "completion_per_1k": 2},
        "spend_per_hour": 100,
        "when": {"not_in_service": True, "health": ["hot"]},
    }
    endpoint = {"url": site.cloud.url, "token": "fallback.token", "ca": "fallback-ca.crt"}
    fallback = {"endpoints": {"cloud": endpoint}, "models": {"assistant": policy}, "state_dir": str(site.state)}
    device = support.start_device(site.folder, unit_ca, current=None, fallback=fallback)
    running.append(device.process)
    device.process.until(lambda: support.answers(device.http) == 503, "up")
    status, answer = device.plain(CHAT, asked())
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "from the cloud")
    assert site.cloud.seen[0]["body"]["messages"][0]["content"] == "Reach me at [email], please."
    # The device's own questions stay, so that its watchdog sees that nothing is in service.
    connection = http.client.HTTPConnection("127.0.0.1", device.http, timeout=support.PATIENCE_S)
    connection.request("POST", CHAT, json.dumps(asked()), control._JSON)
    assert connection.getresponse().status == 503
    connection.close()
    shown = [Path(f"/proc/{device.process.child.pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
    device.process.signal(signal.SIGHUP)
    assert device.plain(CHAT, asked("And again."))[0] == 200
    assert not any(TOKEN.encode() in each for each in shown)
    assert TOKEN not in device.process.log
    assert len(site.written(2)) == 2
