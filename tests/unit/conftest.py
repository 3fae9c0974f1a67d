"""A device's server in this process: real TLS 1.3 and client certificates, real paths; tests set the answers."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hedgerow import paths
from hedgerow.fleet.endpoint import Endpoint
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import DeviceNames, Profile

FLEET, SITE = "meadow-unit", "orchard"

REPORT = {
    "schema": 1,
    "status": "ok",
    "reasons": [],
    "model": {"name": "assistant", "version": "1.0.0", "sha256": "5a" * 32, "since": "2026-11-21T12:00:00Z"},
    "board": {"model": "Raspberry Pi 5 Model B Rev 1.1", "temperature_c": 48.25, "disk_free_mb": 5000},
    "hat": {"kind": "hat-plus-2", "temperature_c": 44.0},
    "serving": {"tokens_per_s": 11.52, "ttft_p95_ms": 240.4},
    "pending": None,
}


Answer = tuple[int, str, bytes]


class FakePi:
    """A listening server. ``answers`` maps path → (status, content type, body), or a function of none."""

    def __init__(self, folder: Path, ca: FleetCA, name: str, number: int, address: tuple[str, int]) -> None:
        self.name = name
        self.answers: dict[str, Answer | Callable[[], Answer]] = {}
        self.seen: list[tuple[str, str, object, dict[str, object]]] = []
        self.report(REPORT)
        self._server = _Server(address, self._handler())
        self._server.socket = _context(folder, ca, name, number).wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def endpoint(self) -> Endpoint:
        address, port = self._server.server_address[:2]
        return Endpoint(self.name, str(address), f"{self.name}.{SITE}.{FLEET}", port)

    def report(self, document: dict[str, object], status: int = 200) -> None:
        self.answers["/health/report"] = (status, "application/json", json.dumps(document).encode())

    def says(self, *events: object) -> None:
        lines = [f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events]
        self.answers["/v1/chat/completions"] = (200, "text/event-stream", "".join(lines).encode())

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        pi = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                subject = dict(part[0] for part in self.connection.getpeercert()["subject"])
                pi.seen.append((self.command, self.path, body, subject))
                answer = pi.answers.get(self.path, (404, "text/plain", b"no such path"))
                status, kind, data = answer() if callable(answer) else answer
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET  # noqa: N815 - the base class's name

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Stay quiet."""

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A refused handshake is what some tests are about."""


def _context(folder: Path, ca: FleetCA, name: str, number: int) -> ssl.SSLContext:
    serial = f"{number:016x}"
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, serial)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = request.public_bytes(serialization.Encoding.PEM).decode()
    names = DeviceNames(fleet=FLEET, site=SITE, host=name, serial=serial)
    (folder / "device.crt").write_text(ca.sign_csr(pem, Profile.DEVICE, names))
    (folder / "device.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ca.folder / "ca.crt")
    context.load_cert_chain(folder / "device.crt", folder / "device.key")
    return context


@pytest.fixture
def fleet_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FleetCA:
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    return FleetCA.init(paths.fleet_dir(FLEET), FLEET)[0]


@pytest.fixture
def make_pi(tmp_path: Path, fleet_ca: FleetCA):
    running: list[FakePi] = []

    def make(name: str = "pi-1", address: tuple[str, int] = ("127.0.0.1", 0)) -> FakePi:
        folder = tmp_path / name
        folder.mkdir()
        running.append(FakePi(folder, fleet_ca, name, len(running) + 1, address))
        return running[-1]

    yield make
    for pi in running:
        pi.stop()


@pytest.fixture
def pi(make_pi) -> FakePi:
    return make_pi()
