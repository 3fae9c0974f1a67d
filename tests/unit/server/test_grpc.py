"""gRPC: the protocol's numbers, status codes, bounds, what a caller who leaves stops; and mutual TLS on a device."""

from __future__ import annotations

import asyncio
import queue
import signal
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest
import server_support as support
import tritonclient.grpc as triton
import uvloop
from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from hedgerow.converge.config import render
from hedgerow.errors import UsageError
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import CLIENT_PROFILES, Peer, Profile
from hedgerow.server import config as configs
from hedgerow.server import modelconfig
from hedgerow.server.config import Address, Limits
from hedgerow.server.dataplane import DataPlane
from hedgerow.server.protocols.grpc import messages, port, service
from hedgerow.server.protocols.grpc.port import GrpcPort, Guard

ROOT = Path(__file__).parents[3]
NAME = f"{support.HOST}.{support.SITE}.{support.FLEET}"
LIMITS = Limits(generations=1, queue=1, max_tokens=1000, body_bytes=1 << 20, drain_s=5)


# ── the protocol ────────────────────────────────────────────────────────────


def shape(message: Any) -> dict[str, Any]:
    """Everything of a message that its bytes depend on."""
    found: dict[str, Any] = {field.name: (field.number, field.type, field.label) for field in message.field}
    for nested in message.nested_type:
        found |= {f"{nested.name}.{name}": value for name, value in shape(nested).items()}
    return found


def described(descriptor: Any) -> descriptor_pb2.FileDescriptorProto:
    made = descriptor_pb2.FileDescriptorProto()
    made.ParseFromString(descriptor.serialized_pb)
    return made


def test_names_and_numbers_are_those_of_tritons_client() -> None:
    ours = described(messages.DESCRIPTOR)
    theirs = [described(module.DESCRIPTOR) for module in (service_pb2, model_config_pb2)]
    known = {message.name: shape(message) for file in theirs for message in file.message_type}
    for message in ours.message_type:
        fields = shape(message)
        assert fields.items() <= known[message.name].items(), message.name
    calls = {call.name: call for file in theirs for each in file.service for call in each.method}
    for call in ours.service[0].method:
        other = calls[call.name]
        assert (call.input_type, call.output_type) == (other.input_type, other.output_type)
        assert (call.client_streaming, call.server_streaming) == (other.client_streaming, other.server_streaming)
    (types,) = ours.enum_type
    assert {each.name: each.number for each in types.value} == dict(model_config_pb2.DataType.items())


def test_every_call_has_a_handler_and_asks_for_rights() -> None:
    calls = {method.name for method in messages.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
    handler = service.Service(SimpleNamespace(), LIMITS).handler()
    handled = {name for name in calls if handler.service(SimpleNamespace(method=f"/{service.NAME}/{name}")) is not None}
    assert handled == set(service.TWINS) == calls


def test_nothing_of_a_models_configuration_gets_lost() -> None:
    known = set(messages.ModelConfig.DESCRIPTOR.fields_by_name)
    assert set(modelconfig.ModelConfig.__struct_fields__) <= known


def test_generated_files_are_those_of_the_definition() -> None:
    subprocess.run([sys.executable, ROOT / "tools/protocol.py", "--check"], check=True)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_devices_configuration_switches_it_on_and_off(tmp_path, wanted) -> None:
    """As the role ``inference_runtime`` renders it."""
    values: dict[str, Any] = {"host": "h", "serial": "s", "fleet": "f", "site": "s", "model": "m"}
    off = {} if wanted else {"grpc": None, "grpcs": None}
    text = render(values | off, "hedgerow.server.config.ServerConfig", "by a role")
    (tmp_path / "server.yml").write_text(text)
    loaded = configs.load(tmp_path / "server.yml")
    if wanted:
        assert (str(loaded.grpc), str(loaded.grpcs.listen)) == ("127.0.0.1:8001", "0.0.0.0:8444")
    else:
        assert (loaded.grpc, loaded.grpcs) == (None, None)


def test_plain_grpc_stays_on_loopback_on_devices(tmp_path) -> None:
    values = {"host": "h", "serial": "s", "fleet": "f", "site": "s", "model": "m"}
    with pytest.raises(UsageError, match="grpc listens without authentication"):
        render(values | {"grpc": {"address": "0.0.0.0", "port": 1}}, "hedgerow.server.config.ServerConfig", "x")


# ── a server on a thread, over a data plane that a test prepares ────────────


class InProcess:
    def __init__(self, folder: Path, backend: Any, limits: Limits) -> None:
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._main, args=(folder, backend, limits))
        self._thread.start()
        assert self._ready.wait(support.PATIENCE_S)
        self.client = triton.InferenceServerClient(f"127.0.0.1:{self.port}")

    def call(self, function: Any, *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(function, *arguments)

    def close(self) -> None:
        self.client.close()
        if self._thread.is_alive():
            self.call(self._stop.set)
        self._thread.join(support.PATIENCE_S)
        assert not self._thread.is_alive()

    def _main(self, folder: Path, backend: Any, limits: Limits) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve(folder, backend, limits))

    async def _serve(self, folder: Path, backend: Any, limits: Limits) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.plane = DataPlane(folder, model="assistant", limits=limits)
        slot = self.plane._slots["assistant"]
        slot.prepare(support.served(backend))
        slot.switch()
        listening = GrpcPort(self.plane, Address("127.0.0.1", 0), limits, None, None)
        self.port = listening.port
        self.said = str(listening)
        await listening.start()
        self._ready.set()
        await self._stop.wait()
        await listening.stop()
        await self.plane.close()


@pytest.fixture
def serving(tmp_path, running):
    """``serving(backend)`` → a server of it."""

    def start(backend: Any, limits: Limits = LIMITS) -> InProcess:
        server = InProcess(tmp_path, backend, limits)
        running.append(server)
        return server

    return start


def test_a_port_that_the_system_chose_is_said(serving) -> None:
    server = serving(support.Script(["a"]))
    assert server.port != 0
    assert server.said == f"grpc://127.0.0.1:{server.port}"


def text() -> list[triton.InferInput]:
    given = triton.InferInput("text_input", [1], "BYTES")
    given.set_data_from_numpy(np.array([b"hello"], dtype=np.object_))
    return [given]


def status_of(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **named)
    return caught.value.status().removeprefix("StatusCode.")


def gated(count: int = 0) -> support.Script:
    return support.Script(["word "] * 500, gate=threading.Semaphore(count))


def let_go(script: support.Script) -> None:
    assert script.gate is not None
    script.gate.release(2000)


def test_a_caller_who_cancels_a_stream_stops_its_generation_at_once(serving) -> None:
    script = gated()
    server = serving(script)
    got: queue.Queue[Any] = queue.Queue()
    server.client.start_stream(lambda result, error: got.put((result, error)))
    server.client.async_stream_infer("assistant", text(), parameters={"max_tokens": 500})
    for _ in range(3):
        script.gate.release()
        assert got.get(timeout=support.PATIENCE_S)[1] is None
    server.client.stop_stream(cancel_requests=True)
    support.wait(lambda: server.plane.inflight == 0)
    let_go(script)  # the step that waits may end; no further one begins
    support.wait(lambda: script.open == 0)
    assert script.steps <= 5


def test_a_caller_whose_time_is_over_stops_the_generation(serving) -> None:
    script = gated(1)
    server = serving(script)
    assert status_of(server.client.infer, "assistant", text(), client_timeout=0.3) == "DEADLINE_EXCEEDED"
    support.wait(lambda: server.plane.inflight == 0)
    let_go(script)
    support.wait(lambda: script.open == 0)
    assert script.steps <= 3


def test_the_parameter_timeout_is_a_deadline_too(serving) -> None:
    script = gated()
    server = serving(script)
    assert status_of(server.client.infer, "assistant", text(), timeout=300_000) == "DEADLINE_EXCEEDED"
    let_go(script)
    support.wait(lambda: script.open == 0)
    assert script.steps <= 3


def test_over_the_bound_is_resource_exhausted_with_a_time_to_come_back(serving) -> None:
    script = gated()
    server = serving(script)
    stub = service_pb2_grpc.GRPCInferenceServiceStub(server.client._channel)
    request = service_pb2.ModelInferRequest(model_name="assistant")
    given = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    given.contents.bytes_contents.append(b"hello")
    waiting = [stub.ModelInfer.future(request) for _ in range(2)]
    support.wait(lambda: server.plane.inflight == 2)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1000
    let_go(script)
    for call in waiting:
        answer = call.result(timeout=support.PATIENCE_S)
        assert answer.outputs[0].contents.bytes_contents[0].startswith(b"word ")


def test_a_drained_server_is_unavailable_and_not_ready(serving) -> None:
    server = serving(support.Script(["a"]))
    server.call(server.plane.drain.begin, 60.0)
    support.wait(lambda: server.plane.draining)
    assert server.client.is_server_live()
    assert not server.client.is_server_ready()
    assert not server.client.is_model_ready("assistant")
    assert status_of(server.client.infer, "assistant", text()) == "UNAVAILABLE"
    server.call(server.plane.drain.end)
    support.wait(lambda: not server.plane.draining)
    assert server.client.infer("assistant", text()).as_numpy("text_output")[0] == b"a"


def test_what_breaks_in_the_runtime_is_internal_and_ends_no_other_call(serving) -> None:
    server = serving(support.Script(["a"], fails_at=0))
    assert status_of(server.client.infer, "assistant", text()) == "INTERNAL"
    assert server.client.is_server_ready()


@pytest.mark.parametrize("algorithm", [None, "gzip"])
def test_a_message_over_the_bound_is_refused_before_it_is_read(serving, algorithm: str | None) -> None:
    server = serving(support.Script(["a"]))
    given = triton.InferInput("text_input", [1], "BYTES")
    given.set_data_from_numpy(np.array([b"\0" * (LIMITS.body_bytes + 1)], dtype=np.object_))
    named = {"compression_algorithm": algorithm}
    assert status_of(server.client.infer, "assistant", [given], **named) == "RESOURCE_EXHAUSTED"
    assert server.client.is_server_ready()


def test_bytes_that_are_no_message_are_refused(serving) -> None:
    server = serving(support.Script(["a"]))
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_unary(f"/{service.NAME}/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff\xff", timeout=support.PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        stream = channel.stream_stream(f"/{service.NAME}/ModelStreamInfer")
        with pytest.raises(grpc.RpcError) as caught:
            list(stream(iter([b"\xff\xff\xff"]), timeout=support.PATIENCE_S))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert server.client.is_server_ready()


def test_a_stream_that_runs_ends_before_the_server_does(serving) -> None:
    script = gated(2)
    server = serving(script)
    got: queue.Queue[Any] = queue.Queue()
    server.client.start_stream(lambda result, error: got.put((result, error)))
    server.client.async_stream_infer("assistant", text(), parameters={"max_tokens": 5})
    assert got.get(timeout=support.PATIENCE_S)[1] is None
    closing = threading.Thread(target=server.call, args=(server._stop.set,))
    closing.start()
    closing.join()
    let_go(script)
    while True:
        result, error = got.get(timeout=support.PATIENCE_S)
        assert error is None
        if result.get_response().parameters["triton_final_response"].bool_param:
            break
    server.client.stop_stream(cancel_requests=True)


def test_a_stream_that_is_kept_open_holds_no_stop_up(serving) -> None:
    server = serving(support.Script(["a"]), msgspec.structs.replace(LIMITS, drain_s=3600.0))
    got: queue.Queue[Any] = queue.Queue()
    server.client.start_stream(lambda result, error: got.put((result, error)))
    server.client.async_stream_infer("assistant", text())
    assert got.get(timeout=support.PATIENCE_S)[1] is None
    server.call(server._stop.set)
    while (error := got.get(timeout=support.PATIENCE_S)[1]) is None:
        pass
    assert error.status() == "StatusCode.UNAVAILABLE"
    server._thread.join(support.PATIENCE_S)
    assert not server._thread.is_alive()


# ── mutual TLS ──────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def device(tmp_path_factory, unit_ca):
    folder = tmp_path_factory.mktemp("device")
    support.write_bundle(folder / "models" / "assistant" / "1.0.0", "assistant", "1.0.0", 1.0)
    device = support.start_device(folder, unit_ca)
    try:
        device.process.until(lambda: support.answers(device.http) == 200, "ready")
        yield device
    finally:
        device.process.close()


def channel_of(device: support.Device, files: Any, *, ca: Path | None = None) -> grpc.Channel:
    """A channel of its own connection, with a caller's certificate."""
    pem = [Path(path).read_bytes() for path in (ca or device.ca.folder / "ca.crt", files.key, files.certificate)]
    options = [("grpc.ssl_target_name_override", NAME), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(f"127.0.0.1:{device.grpcs}", grpc.ssl_channel_credentials(*pem), options)


def asked(channel: grpc.Channel, name: str) -> grpc.StatusCode:
    """The status of an empty request of ``name``."""
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    request = getattr(service_pb2, "ModelInferRequest" if name == "ModelStreamInfer" else f"{name}Request")()
    try:
        if name == "ModelStreamInfer":
            list(stub.ModelStreamInfer(iter([request]), timeout=support.PATIENCE_S))
        else:
            getattr(stub, name)(request, timeout=support.PATIENCE_S)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


HEALTH = {"ServerLive", "ServerReady"}
MODELS = {name for name in service.TWINS if name.startswith("Model")} | {"ServerMetadata"}
MAY = {
    Profile.CLIENT: HEALTH | MODELS,
    Profile.MONITOR: HEALTH,
    Profile.OPERATOR: set(service.TWINS),
    Profile.PUBLISHER: set(),
    Profile.DEVICE: set(),
}


@pytest.mark.parametrize("profile", MAY)
def test_each_profile_reaches_its_calls_and_no_other(device, unit_ca, profile: Profile, tmp_path) -> None:
    if profile in CLIENT_PROFILES:
        files: Any = unit_ca.issue_client(profile, f"grpc-{profile.value}")
    else:
        support.write_device_certificate(unit_ca, tmp_path)
        files = SimpleNamespace(key=tmp_path / "device.key", certificate=tmp_path / "device.crt")
    with channel_of(device, files) as channel:
        reached = {name for name in service.TWINS if asked(channel, name) is not grpc.StatusCode.PERMISSION_DENIED}
    assert reached == MAY[profile]


def test_tritonclient_infers_over_mutual_tls(device, unit_ca, tmp_path) -> None:
    files = unit_ca.issue_client(Profile.CLIENT, "grpc-triton")
    client = triton.InferenceServerClient(
        f"127.0.0.1:{device.grpcs}",
        ssl=True,
        root_certificates=str(unit_ca.folder / "ca.crt"),
        private_key=str(files.key),
        certificate_chain=str(files.certificate),
        channel_args=[("grpc.ssl_target_name_override", NAME)],
    )
    given = triton.InferInput("x", [1, 2], "FP32")
    given.set_data_from_numpy(np.array([[1.0, 2.0]], dtype=np.float32))
    assert client.infer("assistant", [given]).as_numpy("y").tolist() == [[2.0, 3.0]]
    client.close()


def test_strangers_get_no_answer_at_all(device, unit_ca, tmp_path) -> None:
    other = FleetCA.init(tmp_path / "other", "other-fleet")[0]
    files = other.issue_client(Profile.OPERATOR, "stranger")
    with channel_of(device, files, ca=unit_ca.folder / "ca.crt") as channel:
        assert asked(channel, "ServerLive") is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(f"127.0.0.1:{device.grpcs}") as channel:
        assert asked(channel, "ServerLive") is grpc.StatusCode.UNAVAILABLE
    assert device.plain("/health/ready")[0] == 200


def test_a_renewed_certificate_is_used_without_dropping_a_connection(tmp_path, unit_ca, running) -> None:
    support.write_bundle(tmp_path / "models" / "assistant" / "1.0.0", "assistant", "1.0.0", 1.0)
    device = support.start_device(tmp_path, unit_ca)
    running.append(device.process)
    device.process.until(lambda: support.answers(device.http) == 200, "ready")
    files = unit_ca.issue_client(Profile.MONITOR, "grpc-monitor")

    def shown() -> str:
        """The serial number of the certificate that a new connection is shown."""
        context = ssl.create_default_context(cafile=unit_ca.folder / "ca.crt")
        context.load_cert_chain(files.certificate, files.key)
        context.set_alpn_protocols(["h2"])
        with (
            support.socket.create_connection(("127.0.0.1", device.grpcs), support.PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=NAME) as secure,
        ):
            return str(secure.getpeercert()["serialNumber"])

    first = shown()
    states: list[grpc.ChannelConnectivity] = []
    with channel_of(device, files) as channel:
        assert asked(channel, "ServerLive") is grpc.StatusCode.OK
        channel.subscribe(states.append)
        (tmp_path / "credentials" / "device.key").write_text("half written")
        device.process.signal(signal.SIGHUP)
        device.process.until(lambda: device.process.log.count("cannot be used") == 2, "refused the half-written key")
        assert shown() == first
        support.write_device_certificate(unit_ca, tmp_path / "credentials", days=2)
        device.process.signal(signal.SIGHUP)
        device.process.until(lambda: device.process.log.count("certificate read again") == 2, "reloaded")
        assert shown() != first
        assert asked(channel, "ServerLive") is grpc.StatusCode.OK
        assert set(states) <= {grpc.ChannelConnectivity.READY}


class Context:
    """What a call knows of its caller."""

    def __init__(self, version: bytes) -> None:
        self._version = version
        self.code: grpc.StatusCode | None = None

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [b"pem"], "ssl_tls_version": [self._version]}

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.code = code


@pytest.mark.parametrize(
    "version, days, code",
    [
        (b"TLSv1.3", 1, None),
        (b"TLSv1.2", 1, grpc.StatusCode.UNAUTHENTICATED),
        (b"TLSv1.3", -1, grpc.StatusCode.UNAUTHENTICATED),
    ],
)
def test_what_grpcs_own_tls_lets_through_is_refused_at_the_call(monkeypatch, version, days, code) -> None:
    found = Peer(support.FLEET, Profile.OPERATOR, "jane"), datetime.now(UTC) + timedelta(days=days)
    monkeypatch.setattr(port, "peer_of", lambda _: found)
    guard = Guard(fleet=support.FLEET, site=support.SITE)
    context = Context(version)
    asyncio.run(guard.check(context, "/v2/repository"))
    assert context.code is code
