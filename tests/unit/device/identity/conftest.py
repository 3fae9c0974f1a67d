"""A gateway in this process: real mutual TLS 1.3, a real CA; tests say what it refuses.

It stands for ``hedgerow-renewal.service``: the same routes, the same answers (docs/device-identity.md). As that one, it
takes a certificate that has expired and judges it itself.
"""

import datetime as dt
import json
import socket
import ssl
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hedgerow.device.config import DeviceConfig
from hedgerow.device.identity.config import IdentityConfig
from hedgerow.device.identity.renewal import Device
from hedgerow.identity import certificates, enrol
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import DeviceNames, Profile

SERIAL = "10000000a1b2c3d4"
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which Python's ssl has no name for


class Gateway:
    def __init__(self, folder, ca, names):
        self.ca, self.names = ca, names
        self.asked = []  # (route, serial number of the client's certificate, public key of the request or None)
        self.headers = []
        self.refuse = None  # (status, JSON, headers) for /identity/renew
        self.rejected = set()  # serial numbers that /identity/time refuses
        self.reject_fresh = False
        self.certify_for = None  # another CA
        self.crl = None
        self.cut = None  # "reset" or "end": how the connection ends after the handshake, without an answer
        self.issue_now = None
        gateway = DeviceNames(fleet="meadow", site="orchard", host="gw-orchard", serial="10000000ffffffff")
        self.name = gateway.dns
        csr = enrol.request(str(folder), gateway.serial)["csr"]
        enrol.install(str(folder), ca.sign_csr(csr, Profile.GATEWAY, gateway), certificates.pem(ca.certificate))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
        context.load_verify_locations(folder / "ca.crt")
        context.load_cert_chain(folder / "device.crt", folder / "device.key")
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def renew(self, peer, csr):
        if self.refuse is not None:
            return self.refuse
        fresh = (self.certify_for or self.ca).sign_csr(csr, Profile.DEVICE, self.names, now=self.issue_now)
        if self.reject_fresh:
            self.rejected.add(x509.load_pem_x509_certificate(fresh.encode()).serial_number)
        return 200, {"certificate": fresh, "ca": certificates.pem(self.ca.certificate), "not_after": "…"}, {}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that hung up is no fault here."""


def _handler(gateway):  # noqa: C901 - one class, five short methods
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self):
            if gateway.cut is None:
                super().handle_one_request()
                return
            if gateway.cut == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                self.rfile.readline()  # what comes while nobody reads would be answered with a reset
                self.connection.unwrap()
            self.close_connection = True

        def do_GET(self):
            peer = self._peer()
            gateway.asked.append((self.path, peer.serial_number, None))
            if peer.serial_number in gateway.rejected:
                self._say(403, {"error": "this certificate was revoked", "code": "revoked"}, {})
            elif self.path == "/identity/time":
                self._say(200, {"time": dt.datetime.now(dt.UTC).isoformat()}, {})
            elif self.path == "/identity/crl.pem" and gateway.crl is not None:
                self._send(200, gateway.crl, {})
            else:
                self._say(404, {"error": "there is no list"}, {})

        def do_POST(self):
            peer = self._peer()
            text = self.rfile.read(int(self.headers["content-length"])).decode()
            key = x509.load_pem_x509_csr(text.encode()).public_key()
            public = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            gateway.asked.append((self.path, peer.serial_number, public))
            gateway.headers.append(dict(self.headers))
            self._say(*gateway.renew(peer, text))

        def _peer(self):
            return x509.load_der_x509_certificate(self.connection.getpeercert(binary_form=True))

        def _say(self, status, value, headers):
            self._send(status, json.dumps(value).encode(), headers)

        def _send(self, status, data, headers):
            self.send_response(status)
            for name, value in (headers | {"content-length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            """Stay quiet."""

    return Handler


@pytest.fixture
def now():
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


@pytest.fixture
def authority(tmp_path, now):
    # A CA that is older than anything it signs here, so that expired certificates can be issued.
    return FleetCA.init(tmp_path / "fleet", "meadow", now=now - dt.timedelta(days=200))[0]


@pytest.fixture
def names():
    return DeviceNames(fleet="meadow", site="orchard", host="pi-orchard-1", serial=SERIAL)


@pytest.fixture
def gateway(tmp_path, authority, names):
    made = Gateway(tmp_path / "gateway", authority, names)
    yield made
    made.stop()


@pytest.fixture
def config(tmp_path, gateway):
    (tmp_path / "activation").mkdir()
    return DeviceConfig(
        fleet="meadow",
        site="orchard",
        host="pi-orchard-1",
        serial=SERIAL,
        registry_url="https://127.0.0.1/",
        registry_name=gateway.name,
        serving_model="assistant",
        activation_dir=tmp_path / "activation",
        identity=IdentityConfig(
            directory=tmp_path / "identity",
            renewal_url=f"https://127.0.0.1:{gateway.port}",
            crl=tmp_path / "revocation" / "crl.pem",
            services=(),
        ),
    )


@pytest.fixture
def enrolled(config, authority, names, now):
    """Gives the device a certificate of so many days, issued so many days ago; returns its folder."""

    def enrol_(*, days=30, ago=0, **options):
        folder = config.identity.directory
        csr = enrol.request(str(folder), SERIAL, **options)["csr"]
        then = now - dt.timedelta(days=ago)
        enrol.install(
            str(folder),
            authority.sign_csr(csr, Profile.DEVICE, names, days=days, now=then),
            certificates.pem(authority.certificate),
        )
        return folder

    return enrol_


@pytest.fixture
def device(config, now):
    """Opens the device; ``clock`` and ``synced`` are its own, other words change its configuration."""

    def open_(clock=None, *, synced=None, **changes):
        own = msgspec.structs.replace(config.identity, **changes)
        return Device(msgspec.structs.replace(config, identity=own), clock or now, synced=synced)

    return open_
