"""A stage of a registry, a gateway that serves it over mutual TLS, a device and the control socket of its server."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import stages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hedgerow.device import links
from hedgerow.device.config import DeviceConfig, TlsPaths
from hedgerow.device.store import layout
from hedgerow.device.transition import Pending
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import DeviceNames, Profile
from hedgerow.registry import bundle as bundles
from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import GoldenText, Manifest, Message, Provenance, Requires, Source
from hedgerow.registry.source import HttpsSource, TlsFiles

FLEET, SITE, MODEL = "meadow-faults", "orchard", "assistant"
GATEWAY, DEVICE = f"gw.{SITE}.{FLEET}", f"pi.{SITE}.{FLEET}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.faults)


# -- bundles and the registry ------------------------------------------------


def build_bundle(folder: Path, version: str, *, size: int = 70_000, name: str = MODEL) -> Path:
    """A bundle of three files, one in a folder of its own; the content depends on the version."""
    (folder / "tokens").mkdir(parents=True)
    (folder / "model.onnx").write_bytes((version.encode() * size)[:size])
    (folder / "tokens" / "tokenizer.json").write_text(json.dumps({"version": version}))
    (folder / "LICENSE").write_text("the same in every version\n")
    manifest = Manifest(
        schema=1,
        name=name,
        version=version,
        format="onnx-genai",
        license="Apache-2.0",
        files=bundles.describe_files(folder),
        requires=Requires(memory_mb=64),
        provenance=Provenance(sources=(Source("a test"),), builder="a test", tools={}),
        golden=(GoldenText((Message("user", "The capital of France?"),), "Paris"),),
        license_file="LICENSE",
    )
    (folder / manifests.FILE_NAME).write_bytes(manifests.encode(manifest))
    return folder


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    def make(version: str, **options: Any) -> Path:
        return build_bundle(tmp_path / "bundles" / version, version, **options)

    return make


@pytest.fixture
def registry(tmp_path: Path, make_bundle: Callable[..., Path]) -> stages.Stage:
    """Version 1.0.0 is published."""
    made = stages.found(tmp_path / "stage")
    made.publish(make_bundle("1.0.0"))
    return made


# -- the gateway ---------------------------------------------------------------


class Gateway(http.server.ThreadingHTTPServer):
    """Static files and ranges of them over mutual TLS.

    ``alter`` changes what is answered for a path; of a path in ``cut`` no byte from that offset of the file on is sent:
    the line ends there.
    """

    daemon_threads = True

    def __init__(self, root: Path, context: ssl.SSLContext) -> None:
        self.root = root
        self.asked: list[str] = []
        self.alter: dict[str, Callable[[bytes], bytes]] = {}
        self.cut: dict[str, int] = {}
        super().__init__(("127.0.0.1", 0), _GatewayHandler)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is what these tests are about."""


_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class _GatewayHandler(http.server.BaseHTTPRequestHandler):
    server: Gateway
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        self.server.asked.append(path)
        file = self.server.root / path
        if not file.is_file():
            self.send_error(404)
            return
        data = self.server.alter.get(path, bytes)(file.read_bytes())
        start, end = 0, len(data)
        if asked := _RANGE.fullmatch(self.headers.get("range", "")):
            start = int(asked[1])
            end = min(end, int(asked[2]) + 1) if asked[2] else end
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("content-range", f"bytes {start}-{end - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("content-length", str(end - start))
        self.end_headers()
        stop = self.server.cut.get(path, end)
        self.wfile.write(data[start : min(end, stop)])
        if stop < end:
            self.close_connection = True
            self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Stay quiet."""


def _identity(folder: Path, ca: FleetCA, profile: Profile, host: str, serial: str) -> Path:
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, serial)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    names = DeviceNames(fleet=FLEET, site=SITE, host=host, serial=serial)
    pem = request.public_bytes(serialization.Encoding.PEM).decode()
    (folder / "device.crt").write_text(ca.sign_csr(pem, profile, names))
    (folder / "device.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    shutil.copy(ca.folder / "ca.crt", folder / "ca.crt")
    return folder


@pytest.fixture(scope="session")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("identities")
    ca, _ = FleetCA.init(folder / "fleet", FLEET)
    return {
        "gateway": _identity(folder / "gateway", ca, Profile.GATEWAY, "gw", "1" * 16),
        "device": _identity(folder / "device", ca, Profile.DEVICE, "pi", "2" * 16),
    }


@pytest.fixture
def gateway(registry: stages.Stage, identities: dict[str, Path]) -> Iterator[Gateway]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(identities["gateway"] / "ca.crt")
    context.load_cert_chain(identities["gateway"] / "device.crt", identities["gateway"] / "device.key")
    server = Gateway(registry.root, context)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


# -- the device and its server ---------------------------------------------------


@dataclass
class Device:
    """A device's folders, its configuration file and how its registry is reached."""

    root: Path
    config: DeviceConfig
    config_file: Path

    @property
    def home(self) -> Path:
        return self.config.models_dir / MODEL

    @property
    def current(self) -> str | None:
        return links.target(self.home, links.CURRENT)

    @property
    def previous(self) -> str | None:
        return links.target(self.home, links.PREVIOUS)

    @property
    def pending(self) -> Pending | None:
        return links.read_pending(self.config.activation_dir)

    @property
    def source(self) -> HttpsSource:
        tls = self.config.tls
        files = TlsFiles(tls.certificate, tls.key, tls.ca)
        return HttpsSource(self.config.registry_url, files, server_name=self.config.registry_name)

    def versions(self) -> list[str]:
        """Folders below the model's: versions, and whatever should not be there."""
        if not self.home.exists():
            return []
        return sorted(path.name for path in self.home.iterdir() if path.is_dir() and not path.is_symlink())

    def debris(self) -> list[str]:
        """What is neither a version, a link to one, nor the store's memory."""
        store = self.config.models_dir / layout.FOLDER
        memory = {"lock", "used.json", "pins.json", "written.json", "recipes", "signed", "partial", "trash"}
        found = [path for path in store.glob("*") if path.name not in memory]
        found += [*store.glob("partial/*"), *store.glob("trash/*")]
        found += [path for path in self.config.models_dir.rglob(".*") if path != store]
        found += self.config.activation_dir.rglob(".*")
        return sorted(str(path.relative_to(self.root)) for path in found)


@pytest.fixture
def device(tmp_path: Path, registry: stages.Stage, gateway: Gateway, identities: dict[str, Path]) -> Device:
    """Converged: trusts the registry's first root, and has nothing yet."""
    root = tmp_path / "device"
    folders = {name: root / name for name in ("models", "activation", "trust", "runtime", "configuration")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    registry.anchor(folders["trust"])
    identity = identities["device"]
    config = DeviceConfig(
        fleet=FLEET,
        site=SITE,
        host="pi",
        serial="2" * 16,
        registry_url=gateway.url,
        registry_name=GATEWAY,
        serving_model=MODEL,
        tls=TlsPaths(identity / "device.crt", identity / "device.key", identity / "ca.crt"),
        models_dir=folders["models"],
        activation_dir=folders["activation"],
        trust_dir=folders["trust"],
        # A Unix socket's path has room for 107 characters, and pytest's folders are long.
        control_socket=Path(f"/tmp/hedgerow-{gateway.server_address[1]}.sock"),
        switch_socket=Path(f"/tmp/hedgerow-switch-{gateway.server_address[1]}.sock"),
        runtime_dir=folders["runtime"],
        configuration_dir=folders["configuration"],
        reserve_mb=1,
    )
    file = root / "device.yml"
    file.write_bytes(msgspec.yaml.encode(config, enc_hook=str))
    return Device(root, config, file)


@dataclass
class ServerDouble:
    """The server's control socket, really spoken: HTTP on a Unix socket, as ``hedgerow.server.protocols.control``.

    ``unfit`` maps a version to why it may not serve. ``deaf`` names a route that is answered by hanging up.
    """

    device: Device
    serving: str | None = None
    prepared: str | None = None
    unfit: dict[str, str] = field(default_factory=dict)
    deaf: str | None = None
    asked: list[str] = field(default_factory=list)
    runtime: str | None = None
    configuration: str | None = None
    starts: int = 0

    def restart(self) -> None:
        """As a server that starts: it serves what ``current`` names, and the files must be whole."""
        self.starts += 1
        self.prepared = None
        self.runtime = links.target(self.device.config.runtime_dir, links.CURRENT)
        self.configuration = links.target(self.device.config.configuration_dir, links.CURRENT)
        self.serving = self.device.current
        if self.serving is not None:
            bundles.verify_files(self.device.home / self.serving)

    def answer(self, route: str, body: dict[str, str]) -> tuple[int, dict[str, Any]]:  # noqa: PLR0911 - one a route
        version = body.get("version")
        if route == "prepare":
            if version in self.unfit:
                return 422, {"error": {"code": "golden_failed", "text": self.unfit[version]}}
            if version is None or not (self.device.home / version).is_dir():
                return 422, {"error": {"code": "not_found", "text": "not on this device"}}
            self.prepared = version
            return 200, {"load_s": 0.01, "golden": {"passed": 1, "failed": 0}}
        if route == "switch":
            if version not in {self.serving, self.prepared}:
                return 400, {"error": f"{version} was not prepared"}
            before = None if version == self.serving else self.serving
            if version != self.serving:
                self.serving, self.prepared = version, None
            return 200, {"serving": self.shown(self.serving), "previous": self.shown(before)}
        if route == "discard":
            self.prepared = None
            return 200, {}
        if route == "status":
            runs = {"runtime": self.runtime, "configuration": self.configuration}
            return 200, runs | {"serving": self.shown(self.serving), "prepared": self.shown(self.prepared)}
        return 404, {"error": "no such path"}

    def shown(self, version: str | None) -> dict[str, str] | None:
        if version is None:
            return None
        return {"name": MODEL, "version": version, "sha256": bundles.load(self.device.home / version).sha256}


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    double: ServerDouble

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is what these tests are about."""


class _ControlHandler(http.server.BaseHTTPRequestHandler):
    server: _UnixServer

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        route = self.path.rpartition("/")[2]
        double = self.server.double
        double.asked.append(route)
        status, answer = double.answer(route, body)
        if route == double.deaf:
            return
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST  # noqa: N815 - the base class's name

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Stay quiet."""


@pytest.fixture
def server(device: Device) -> Iterator[ServerDouble]:
    double = ServerDouble(device)
    path = device.config.control_socket
    path.unlink(missing_ok=True)
    listener = _UnixServer(str(path), _ControlHandler)
    listener.double = double
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield double
    listener.shutdown()
    listener.server_close()
    thread.join()
    path.unlink(missing_ok=True)


# -- processes that can be killed --------------------------------------------------

ALL_POINTS = os.environ.get("HEDGEROW_ALL_POINTS") == "1"


def points(count: int, sample: int, *, last: int = 0) -> Sequence[int]:
    """Steps to kill at: all with HEDGEROW_ALL_POINTS, else ``sample`` of them spread evenly, and the ``last``."""
    if ALL_POINTS:
        return range(1, count + 1)
    spread = {1 + (2 * number + 1) * count // (2 * sample) for number in range(sample)}
    return sorted((spread | set(range(count - last + 1, count + 1))) & set(range(1, count + 1)))


@dataclass(frozen=True)
class Ended:
    """How a process ended; ``code`` is -9 if it was killed. ``steps`` are counted only if it was not."""

    code: int
    stdout: str
    stderr: str
    steps: int

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.stdout)

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.stderr.strip().splitlines()[-1])


class Runner:
    """Starts programs through ``crash_runner.py``."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("crash_runner.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, program: str, *argv: str, **order: Any) -> Ended:
        self._process.stdin.write(json.dumps({"program": program, "argv": argv, **order}) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def runner() -> Iterator[Runner]:
    made = Runner()
    yield made
    made.close()


@pytest.fixture
def command(runner: Runner, device: Device) -> Callable[..., Ended]:
    """``hedgerow-device`` of this device, in a process of its own."""

    def call(*argv: str, **order: Any) -> Ended:
        return runner.run("hedgerow-device", *argv, "--config", str(device.config_file), "--json", **order)

    return call
