"""Traces, against a real receiver: which leave, what they say, and what a collector that is gone costs."""

from __future__ import annotations

import asyncio
import builtins
import logging
import socket
import ssl
import sys
import time

import grpc
import httpx
import pytest
import server_support as support
from otlp_receiver import Receiver, attributes
from server_support import Script, served

from hedgerow.server import backends
from hedgerow.server.backends import TextRequest
from hedgerow.server.config import Address, Limits
from hedgerow.server.dataplane import DataPlane
from hedgerow.server.models import Slot
from hedgerow.server.protocols.grpc import messages
from hedgerow.server.protocols.grpc.port import GrpcPort
from hedgerow.server.telemetry.config import Telemetry as Settings
from hedgerow.server.telemetry.config import Traces
from hedgerow.server.telemetry.service import Telemetry, resource

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def serve(tmp_path, running):
    """``serve(endpoint, …)`` → a client of a server with traces; after ``client.traces()`` what waited has left."""
    support.write_add(tmp_path / "add", 1.0)

    def start(endpoint: str, script: Script | None = None, slow_s: float = 30.0, **settings) -> httpx.Client:
        def prepare(plane: DataPlane) -> None:
            plane._slots["add"] = Slot("add", served(backends.load(tmp_path / "add", threads=1), "add"))
            plane._slots["assistant"] = Slot("assistant", served(script or Script(["Hi", " there", "."])))
            told = resource(host="pi-1", site="orchard", fleet="meadow", serial="00000000deadbeef")
            traces = Traces(endpoint, **{"interval_s": 0.05, "timeout_s": 5.0, **settings})
            prepare.telemetry = Telemetry(Settings(slow_s=slow_s, traces=traces), plane.recorder, plane.metrics, told)

        server = support.InProcess(prepare, tmp_path, Limits())
        client = httpx.Client(base_url=server.url, timeout=support.PATIENCE_S)
        client.server = server
        client.traces = prepare.telemetry.close
        running.insert(0, client)
        running.insert(0, server)
        return client

    return start


def chat(client: httpx.Client, **headers: str) -> httpx.Response:
    return client.post("/v1/chat/completions", json={"model": "assistant", "messages": HELLO}, headers=headers)


def add(client: httpx.Client, shape=(1, 2)) -> httpx.Response:
    tensor = {"name": "x", "shape": list(shape), "datatype": "FP32", "data": [1.0] * (shape[0] * shape[1])}
    return client.post("/v2/models/add/infer", json={"inputs": [tensor]})


def counted(client: httpx.Client, outcome: str) -> float:
    registry = client.server.plane.metrics.registry
    return registry.get_sample_value("hedgerow_server_traces_total", {"outcome": outcome}) or 0.0


# ── what they say ───────────────────────────────────────────────────────────


def test_a_generation_and_where_its_time_went(serve, receiver) -> None:
    client = serve(receiver.endpoint, ratio=1.0)
    before = time.time_ns()
    answer = chat(client, traceparent=f"00-{TRACE}-{SPAN}-01")
    client.traces()
    (root,) = receiver.roots
    assert root.name == "text_completion assistant"
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, SPAN)
    facts = attributes(root)
    first_s = facts.pop("gen_ai.server.time_to_first_token")
    assert 0 < first_s * 1e9 <= root.end_time_unix_nano - root.start_time_unix_nano
    assert facts == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "hedgerow",
        "gen_ai.request.model": "assistant",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ["stop"],
        "hedgerow.model.version": "1.0.0",
        "hedgerow.protocol": "openai",
        "hedgerow.status": 200,
        "hedgerow.request.id": answer.headers["x-request-id"],
    }
    below = [span for span in receiver.spans if span is not root]
    assert [span.name for span in below] == ["receive", "queue", "prompt", "answer"]
    assert {span.parent_span_id for span in below} == {root.span_id}
    assert {span.trace_id for span in below} == {root.trace_id}
    ends = [span.end_time_unix_nano for span in below]
    assert [span.start_time_unix_nano for span in below] == [root.start_time_unix_nano, *ends[:-1]]
    assert before - 1e9 < root.start_time_unix_nano <= ends[-1] <= root.end_time_unix_nano


def test_a_tensor_request(serve, receiver) -> None:
    client = serve(receiver.endpoint, ratio=1.0)
    add(client, (3, 2))
    client.traces()
    (root,) = receiver.roots
    assert root.name == "infer add"
    assert attributes(root)["hedgerow.batch.rows"] == 1
    assert not root.parent_span_id
    assert [span.name for span in receiver.spans] == ["receive", "queue", "compute", "infer add"]


def test_who_sends(serve, receiver) -> None:
    client = serve(receiver.endpoint, ratio=1.0)
    chat(client)
    client.traces()
    (sent,) = receiver.requests[0].resource_spans
    told = attributes(sent.resource)
    assert told["service.name"] == "hedgerow-server"
    assert (told["host.name"], told["hedgerow.site"], told["service.namespace"]) == ("pi-1", "orchard", "meadow")
    assert sent.scope_spans[0].scope.name == "hedgerow.server"


def test_nothing_that_a_caller_wrote_is_in_them(serve, receiver) -> None:
    client = serve(receiver.endpoint, ratio=1.0)
    canary = "canary-of-the-caller"
    headers = {"x-request-id": canary, "tracestate": f"v={canary}", "baggage": f"k={canary}", "user-agent": canary}
    messages = [{"role": "user", "content": canary}]
    asked = {"model": "assistant", "messages": messages, "user": canary, "stop": canary}
    assert client.post("/v1/chat/completions", json=asked, headers=headers).status_code == 200
    assert client.post("/v1/chat/completions", json={**asked, "model": canary}, headers=headers).status_code == 404
    client.traces()
    assert receiver.roots
    assert not any(canary.encode() in body for body in receiver.bodies)


# ── which leave ─────────────────────────────────────────────────────────────


def test_a_trace_that_begins_here_goes_by_the_ratio(serve, receiver) -> None:
    client = serve(receiver.endpoint, ratio=0.0)
    assert chat(client).status_code == 200
    client.traces()
    assert receiver.spans == []
    assert counted(client, "sent") == 0


def test_a_trace_goes_if_it_is_sampled_where_it_began(serve, receiver) -> None:
    client = serve(receiver.endpoint, ratio=0.0)
    chat(client, traceparent=f"00-{TRACE}-{SPAN}-00")
    chat(client, traceparent=f"00-{'1' * 32}-{SPAN}-01")
    client.traces()
    assert [root.trace_id.hex() for root in receiver.roots] == ["1" * 32]


def test_a_slow_request_goes_in_any_case(serve, receiver) -> None:
    client = serve(receiver.endpoint, ratio=0.0, slow_s=1e-9)
    chat(client, traceparent=f"00-{TRACE}-{SPAN}-00")
    client.traces()
    (root,) = receiver.roots
    assert root.status.code == root.status.STATUS_CODE_UNSET


def test_a_failed_request_goes_in_any_case_and_says_why(serve, receiver) -> None:
    client = serve(receiver.endpoint, Script(["a", "b"], fails_at=0), ratio=0.0)
    assert chat(client).status_code == 500
    client.traces()
    (root,) = receiver.roots
    assert root.status.code == root.status.STATUS_CODE_ERROR
    assert not root.status.message
    assert attributes(root)["error.type"] == "runtime"
    assert attributes(root)["hedgerow.status"] == 500


def test_a_callers_mistake_is_no_failure(serve, receiver) -> None:
    client = serve(receiver.endpoint, ratio=0.0)
    assert add(client, (1, 3)).status_code == 400
    client.traces()
    assert receiver.spans == []


# ── gRPC ────────────────────────────────────────────────────────────────────


def test_a_call_over_grpc_continues_its_callers_trace(receiver, tmp_path) -> None:
    asyncio.run(call_over_grpc(receiver, tmp_path))
    (root,) = receiver.roots
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, SPAN)
    assert attributes(root)["hedgerow.protocol"] == "grpc"


async def call_over_grpc(receiver: Receiver, tmp_path) -> None:
    plane = DataPlane(tmp_path)
    plane._slots["assistant"] = Slot("assistant", served(Script(["Hi", "."])))
    plane._opened = True
    settings = Settings(traces=Traces(receiver.endpoint, ratio=0.0))
    telemetry = Telemetry(settings, plane.recorder, plane.metrics, {"service.name": "x"})
    port = GrpcPort(plane, Address("127.0.0.1", 0), Limits(), None, None)
    await port.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port.port}") as channel:
            infer = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=messages.ModelInferRequest.SerializeToString,
                response_deserializer=messages.ModelInferResponse.FromString,
            )
            request = messages.ModelInferRequest(model_name="assistant")
            tensor = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
            tensor.contents.bytes_contents.append(b"hello")
            await infer(request, metadata=(("traceparent", f"00-{TRACE}-{SPAN}-01"),))
    finally:
        await port.stop()
        await plane.close()
        telemetry.close()


# ── when the collector is gone ──────────────────────────────────────────────


def test_a_collector_that_does_not_answer_holds_nobody_up(serve, receiver, caplog) -> None:
    caplog.set_level(logging.INFO)
    receiver.gate.clear()
    client = serve(receiver.endpoint, ratio=1.0, queue=4, timeout_s=0.5)
    chat(client)
    assert receiver.asked.wait(support.PATIENCE_S)  # the thread that sends is stuck there
    for _ in range(20):
        assert chat(client).status_code == 200
    assert counted(client, "queue_full") > 0
    support.wait(lambda: counted(client, "not_sent") > 0)
    receiver.gate.set()
    support.wait(lambda: counted(client, "not_sent") + counted(client, "sent") + counted(client, "queue_full") == 21)
    assert chat(client).status_code == 200
    support.wait(lambda: counted(client, "sent") > 0)
    client.traces()
    told = [record.getMessage() for record in caplog.records if record.name == "hedgerow.server.traces"]
    assert told == ["traces cannot be sent", "traces are sent again"]


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1/v1/traces", "http://localhost:1/v1/traces"])
def test_no_collector_at_all(serve, endpoint, caplog) -> None:
    caplog.set_level(logging.INFO)
    client = serve(endpoint, ratio=1.0, timeout_s=0.2)
    assert chat(client).status_code == 200
    client.traces()
    assert counted(client, "not_sent") == 1
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_collector_that_refuses(serve, receiver, status) -> None:
    receiver.status = status
    client = serve(receiver.endpoint, ratio=1.0)
    assert chat(client).status_code == 200
    client.traces()
    assert counted(client, "not_sent") == 1


# ── TLS ─────────────────────────────────────────────────────────────────────


@pytest.fixture
def files(unit_ca, tmp_path):
    support.write_device_certificate(unit_ca, tmp_path)
    return tmp_path


def secure(files, ca) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "device.crt", files / "device.key")
    context.load_verify_locations(ca.folder / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_with_the_devices_certificate_to_a_collector_of_the_fleet(serve, files, unit_ca, monkeypatch) -> None:
    receiver = Receiver(secure(files, unit_ca))
    # Its certificate is a device's, for the device's name; here that name leads to this machine.
    name = f"{support.HOST}.{support.SITE}.{support.FLEET}"
    monkeypatch.setattr("socket.getaddrinfo", _resolving(name))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(files))
    client = serve(
        f"https://{name}:{receiver.port}/v1/traces", ratio=1.0, ca="ca.crt", certificate="device.crt", key="device.key"
    )
    chat(client)
    client.traces()
    receiver.close()
    assert counted(client, "sent") == 1
    assert receiver.peers[0]["subject"][-1] == (("commonName", support.SERIAL),)


def test_a_collector_of_another_name_gets_nothing(serve, files, unit_ca) -> None:
    receiver = Receiver(secure(files, unit_ca))
    client = serve(
        receiver.endpoint,
        ratio=1.0,
        ca=str(files / "ca.crt"),
        certificate=str(files / "device.crt"),
        key=str(files / "device.key"),
        timeout_s=0.2,
    )
    chat(client)
    client.traces()
    receiver.close()
    assert counted(client, "not_sent") == 1
    assert not receiver.asked.is_set()


@pytest.mark.parametrize(
    "wrong, says",
    [({"ca": "missing"}, "No such file"), ({"ca": "device.key"}, ""), ({"key": "ca.crt"}, "")],
)
def test_files_that_no_connection_could_use_are_named_at_once(serve, files, wrong, says, caplog) -> None:
    """Else each batch would be lost, and the journal would tell of an outage of the collector."""
    paths = {"ca": "ca.crt", "certificate": "device.crt", "key": "device.key"} | wrong
    client = serve(
        "https://127.0.0.1:9/v1/traces", ratio=1.0, **{key: str(files / name) for key, name in paths.items()}
    )
    said = [record.getMessage() for record in caplog.records if "traces cannot be sent" in record.getMessage()]
    assert len(said) == 1
    assert says in said[0]
    assert str(files / next(iter(wrong.values()))) in said[0]
    assert chat(client).status_code == 200


def _resolving(name: str):
    real = socket.getaddrinfo

    def found(host, *arguments, **named):
        return real("127.0.0.1" if host == name else host, *arguments, **named)

    return found


# ── without OpenTelemetry ───────────────────────────────────────────────────


def test_without_the_packages_the_server_serves_and_says_what_to_install(monkeypatch, tmp_path, caplog) -> None:
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("opentelemetry"):
            raise ImportError(name=name)
        return real(name, *rest)

    for module in ("otlp", "spans"):
        monkeypatch.delitem(sys.modules, f"hedgerow.server.telemetry.{module}", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    plane = DataPlane(tmp_path)
    settings = Settings(traces=Traces("http://127.0.0.1:1/v1/traces"))
    Telemetry(settings, plane.recorder, plane.metrics, {}).close()
    assert "install hedgerow[device,traces]" in caplog.text


def test_what_fails_while_telling_takes_no_answer_back(tmp_path, caplog) -> None:
    plane = DataPlane(tmp_path)
    plane._slots["assistant"] = Slot("assistant", served(Script(["Hi", "."])))

    def broken(_request) -> None:
        raise RuntimeError("canary")

    plane.recorder.sinks.append(broken)

    async def answer() -> list[str]:
        batches = plane.generate("assistant", TextRequest(prompt="a"), protocol="oip")
        return [piece.text async for batch in batches for piece in batch]

    assert "".join(asyncio.run(answer())) == "Hi."
    assert "RuntimeError" in caplog.text
    assert "canary" not in caplog.text
