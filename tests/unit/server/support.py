"""What tests of the server share: models small enough to make on the spot, servers on real sockets, certificates."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import onnx
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from onnx import TensorProto, helper
from ports import free_port

from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import DeviceNames, Profile
from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import (
    File,
    GoldenTensor,
    GoldenTensors,
    Manifest,
    Provenance,
    Requires,
    Source,
)
from hedgerow.server import run
from hedgerow.server.config import Address, Limits
from hedgerow.server.dataplane import DataPlane
from hedgerow.server.models import Served
from hedgerow.server.observe import Observer

FLEET, SITE, HOST, SERIAL = "meadow-unit", "orchard", "pi-1", "00000000deadbeef"
PATIENCE_S = 30.0

# ── models ──────────────────────────────────────────────────────────────────


def write_graph(
    folder: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[tuple[str, int, list[Any]]],
    outputs: list[tuple[str, int, list[Any]]],
    constants: list[onnx.TensorProto] | None = None,
) -> Path:
    """Save ``model.onnx`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        constants or [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return folder


def write_add(folder: Path, addend: float) -> Path:
    """``y = x + addend`` over float32[n, 2]."""
    constant = helper.make_tensor("c", TensorProto.FLOAT, [1], [addend])
    sides = [("x", TensorProto.FLOAT, ["n", 2])], [("y", TensorProto.FLOAT, ["n", 2])]
    return write_graph(folder, [helper.make_node("Add", ["x", "c"], ["y"])], *sides, [constant])


def write_endless(folder: Path) -> Path:
    """A real graph that computes for ever where ``go`` is true, and else gives ``x`` (float32[1])."""
    name = {"i": TensorProto.INT64, "c": TensorProto.BOOL, "v": TensorProto.FLOAT}

    def value(text: str, *, of: str, shape: tuple[int, ...] = ()) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(text, name[of], shape)

    nodes = [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Add", ["v", "v"], ["v2"])]
    inputs = [value("i", of="i"), value("c", of="c"), value("v", of="v", shape=(1,))]
    body = helper.make_graph(nodes, "body", inputs, [value("c2", of="c"), value("v2", of="v", shape=(1,))])
    loop = [
        helper.make_node("Squeeze", ["go"], ["first"]),
        helper.make_node("Loop", ["", "first", "x"], ["y"], body=body),
    ]
    sides = [("go", TensorProto.BOOL, [1]), ("x", TensorProto.FLOAT, [1])], [("y", TensorProto.FLOAT, [1])]
    return write_graph(folder, loop, *sides)


def write_identity(folder: Path, kind: int) -> Path:
    """``y = x`` over any shape of one dimension."""
    return write_graph(folder, [helper.make_node("Identity", ["x"], ["y"])], [("x", kind, ["n"])], [("y", kind, ["n"])])


def write_manifest(folder: Path, name: str, version: str, golden: tuple[Any, ...], format_: str = "onnx") -> Path:
    """Make ``folder`` a bundle."""
    files = tuple(
        File(path.name, manifests.digest(path.read_bytes()), path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != manifests.FILE_NAME
    )
    manifest = Manifest(
        schema=1,
        name=name,
        version=version,
        format=format_,
        license="Apache-2.0",
        files=files,
        requires=Requires(memory_mb=1),
        provenance=Provenance((Source("tests"),), "tests", {}),
        golden=golden,
    )
    (folder / manifests.FILE_NAME).write_bytes(manifests.encode(manifest))
    return folder


def write_bundle(folder: Path, name: str, version: str, addend: float, *, answers: float | None = None) -> Path:
    """A bundle that adds ``addend``; its golden input wants ``answers`` for 1, by default the truth."""
    write_add(folder, addend)
    wanted = 1 + addend if answers is None else answers
    golden = GoldenTensors(
        inputs=(GoldenTensor("x", (1, 2), (1.0, 1.0)),),
        outputs=(GoldenTensor("y", (1, 2), (wanted, wanted)),),
        atol=1e-6,
        rtol=0.0,
    )
    return write_manifest(folder, name, version, (golden,))


def write_tiny_text(folder: Path, gguf: Path, *, last_token_logits: bool) -> Path:
    """A decoder of two layers with random weights, for onnxruntime-genai."""
    from hedgerow.models import genai, graph, tokenizer
    from hedgerow.models.gguf_file import GgufFile
    from hedgerow.models.llama import LlamaCheckpoint

    folder.mkdir(parents=True, exist_ok=True)
    with GgufFile(gguf) as file:
        checkpoint = LlamaCheckpoint(file)
        words = tokenizer.read_tokenizer(file, context_length=checkpoint.config.context_length)
        graph.build_graph(checkpoint, folder, replace(graph.FAST, last_token_logits=last_token_logits))
        config = genai.genai_config(checkpoint.config, words)
    for name, document in (
        ("genai_config.json", config),
        ("tokenizer.json", words.document),
        ("tokenizer_config.json", words.config),
    ):
        (folder / name).write_text(json.dumps(document))
    return folder


# ── a backend that says what a test wants ───────────────────────────────────


@dataclass
class Script:
    """A text backend: each generation says ``pieces``, each piece once ``gate`` lets it (unset: at once)."""

    pieces: list[str]
    prompt_parts: int = 1
    truncated: bool = False
    fails_at: int | None = None
    gate: threading.Semaphore | None = None
    platform: str = "script"
    steps: int = 0
    begun: list[Any] = field(default_factory=list)
    open: int = 0
    log: list[str] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)
    logprobs: bool = False

    def begin(self, request: Any) -> _Scripted:
        self.begun.append(request)
        self.open += 1
        return _Scripted(self, len(self.begun))

    def close(self) -> None:
        assert self.open == 0, "closed while a generation runs"
        self.closed.set()


class _Scripted:
    prompt_tokens = 7

    def __init__(self, script: Script, number: int) -> None:
        self._script = script
        self._number = number
        self._left = list(script.pieces)
        self._parts = script.prompt_parts
        self.truncated = False
        self.logprob = 0.0

    def read(self) -> bool:
        self._parts -= 1
        self._script.log.append(f"{self._number}:read")
        return self._parts <= 0

    def step(self) -> str | None:
        script = self._script
        if script.gate is not None:
            assert script.gate.acquire(timeout=PATIENCE_S)
        script.steps += 1
        script.log.append(f"{self._number}:step")
        if script.fails_at is not None and script.steps > script.fails_at:
            raise RuntimeError("the runtime broke")
        if not self._left:
            self.truncated = script.truncated
            return None
        self.logprob -= 0.5
        return self._left.pop(0)

    def close(self) -> None:
        self._script.open -= 1


async def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition that another thread brings about."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def wait(condition: Callable[[], Any]) -> None:
    """The same without an event loop."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def served(backend: Any, name: str = "assistant", version: str = "1.0.0") -> Served:
    return Served(name, version, "5a" * 32, backend, datetime.now(UTC))


# ── servers ─────────────────────────────────────────────────────────────────


class InProcess:
    """The whole HTTP side on a real socket, on a thread of this process, over a data plane that a test prepares.

    ``grpc`` makes a port of gRPC beside it.
    """

    def __init__(
        self,
        prepare: Callable[[DataPlane], None],
        folder: Path,
        limits: Limits,
        *,
        grpc: Callable[[DataPlane], Any] | None = None,
    ) -> None:
        self.plane: DataPlane
        self.port = self.grpc_port = 0
        self._grpc = grpc
        self._stop: Callable[[], None] = lambda: None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, args=(prepare, folder, limits))
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wrap(self, middleware: Callable[[Any], Any]) -> None:
        """Put ``middleware`` around the application."""
        self._server.config.loaded_app = middleware(self._server.config.loaded_app)

    def close(self) -> None:
        self._stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _main(self, prepare: Callable[[DataPlane], None], folder: Path, limits: Limits) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve(prepare, folder, limits))

    async def _serve(self, prepare: Callable[[DataPlane], None], folder: Path, limits: Limits) -> None:
        plane = self.plane = DataPlane(folder, limits=limits)
        prepare(plane)
        plane._opened = True
        observer = Observer(plane, host=HOST, serial="", model="assistant", models_dir=folder, activation_dir=folder)
        listener = run.Listener(
            run.listen(Address("127.0.0.1", 0)), run.Application(run._public_routes(plane, observer, limits))
        )
        self.port = listener.socket.getsockname()[1]
        server = self._server = run._Server(run._uvicorn_config(run._told_of(listener, plane), limits))
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(functools.partial(setattr, server, "should_exit", True))  # noqa: FBT003
        grpc = None if self._grpc is None else self._grpc(plane)
        if grpc is not None:
            await grpc.start()
            self.grpc_port = grpc.port
        self._ready.set()
        await server.serve(sockets=[listener.socket])
        if grpc is not None:
            await grpc.stop()
        await plane.close()


class Process:
    """``hedgerow serve`` as systemd starts it."""

    def __init__(self, folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self._log = (folder / "server.log").open("w+")
        program = Path(sys.executable).parent / "hedgerow"
        self.child = subprocess.Popen(
            [program, "serve", *arguments],
            stderr=self._log,
            stdout=self._log,
            env={**os.environ, **(environment or {})},
        )

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """The first true value of ``condition``."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            assert self.child.poll() is None, f"the server ended with {self.child.returncode}: {self.log}"
            assert time.monotonic() < deadline, f"never {what}: {self.log}"
            time.sleep(0.02)
        return value

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    def wait(self) -> int:
        return self.child.wait(PATIENCE_S)

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.wait()
                raise
        self._log.close()


def tells_of_an_exception(log: str) -> bool:
    """Whether a server's output has one: in a line of JSON, of text, or as Python writes it."""
    return any(sign in log for sign in ('"exception":', " exception=[", "Traceback"))


def answers(port: int, path: str = "/health/ready") -> int | None:
    """The status of a plain GET; None where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(self._path))


class Secure(http.client.HTTPSConnection):
    """HTTPS to a device by address, verified by the name in its certificate."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__("127.0.0.1", port, context=context, timeout=PATIENCE_S)
        self._tls = context

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=f"{HOST}.{SITE}.{FLEET}")


def ask(connection: http.client.HTTPConnection, path: str, body: Any = None) -> tuple[int, Any]:
    """POST ``body``, or GET without one; status and JSON (or text)."""
    method = "GET" if body is None else "POST"
    with contextlib.closing(connection):
        connection.request(method, path, None if body is None else msgspec.json.encode(body))
        response = connection.getresponse()
        data = response.read()
        kind = response.headers.get("content-type", "")
        return response.status, json.loads(data) if kind.startswith("application/json") else data.decode()


# ── a device ────────────────────────────────────────────────────────────────


@dataclass
class Device:
    """A device's server with its files, and what its fleet's CA made."""

    folder: Path
    ca: FleetCA
    http: int
    https: int
    grpc: int
    grpcs: int
    process: Process

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "server.sock"

    def control(self, action: str, version: str | None = None, name: str = "assistant") -> tuple[int, Any]:
        body = None if version is None else {"name": name, "version": version}
        return ask(UnixConnection(self.socket), f"/control/v1/{action}", body)

    def plain(self, path: str, body: Any = None) -> tuple[int, Any]:
        return ask(http.client.HTTPConnection("127.0.0.1", self.http, timeout=PATIENCE_S), path, body)


def write_device_certificate(ca: FleetCA, folder: Path, *, days: int | None = None) -> None:
    """``device.key``, ``device.crt`` and ``ca.crt``, as enrolment leaves them."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERIAL)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    names = DeviceNames(fleet=FLEET, site=SITE, host=HOST, serial=SERIAL)
    pem = request.public_bytes(serialization.Encoding.PEM).decode()
    (folder / "device.crt").write_text(ca.sign_csr(pem, Profile.DEVICE, names, days=days))
    (folder / "device.key").touch(mode=0o600)
    (folder / "device.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "ca.crt").write_bytes((ca.folder / "ca.crt").read_bytes())


def start_device(
    folder: Path,
    ca: FleetCA,
    *,
    current: str | None = "1.0.0",
    environment: dict[str, str] | None = None,
    **settings: Any,
) -> Device:
    """Start the server on ``folder/models``; ``current`` is what ``assistant/current`` names."""
    (folder / "run").mkdir(exist_ok=True)
    (folder / "credentials").mkdir(exist_ok=True)
    write_device_certificate(ca, folder / "credentials")
    home = folder / "models" / "assistant"
    home.mkdir(parents=True, exist_ok=True)
    if current is not None and not (home / "current").is_symlink():
        (home / "current").symlink_to(current)
    plain, secure, grpc, grpcs = (free_port() for _ in range(4))
    config = {
        "host": HOST,
        "serial": SERIAL,
        "fleet": FLEET,
        "site": SITE,
        "model": "assistant",
        "models_dir": str(folder / "models"),
        "activation_dir": str(folder / "activation"),
        "http": {"address": "127.0.0.1", "port": plain},
        "https": {"address": "127.0.0.1", "port": secure},
        "grpc": {"address": "127.0.0.1", "port": grpc},
        "grpcs": {"address": "127.0.0.1", "port": grpcs},
        "control_socket": str(folder / "run" / "server.sock"),
        **settings,
    }
    (folder / "server.yml").write_text(json.dumps(config))  # JSON is YAML
    process = Process(
        folder,
        "--config",
        str(folder / "server.yml"),
        environment={"CREDENTIALS_DIRECTORY": str(folder / "credentials"), **(environment or {})},
    )
    return Device(folder, ca, plain, secure, grpc, grpcs, process)


@contextlib.contextmanager
def closing_all() -> Iterator[list[Any]]:
    """Whatever a test puts in the list is closed, last first."""
    with contextlib.ExitStack() as stack:
        things: list[Any] = []
        yield things
        for thing in things:
            stack.callback(thing.close)
