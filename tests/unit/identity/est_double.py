"""An EST server (RFC 7030) over real HTTPS: stands for an authority elsewhere, as ``simpleenroll`` shows it.

It has a CA of its own and, as such a server must, makes the names from the serial in the request's CN by a table of its
own. ``spoil`` makes it answer otherwise.
"""

from __future__ import annotations

import base64
import datetime as dt
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from hedgerow.identity import certificates, keyfile
from hedgerow.identity.profiles import Profile

PATH = "/.well-known/est/hedgerow/simpleenroll"


class EstDouble:
    """The server at ``url``; ``seen`` are the requests' CNs. Writes ``ca.pem`` and ``server.pem`` to ``folder``."""

    def __init__(self, folder, table, *, user="ra", password="from a file"):
        self.folder, self.table = folder, table
        self.authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        self.key = certificates.new_key()
        self.ca = certificates.build_ca(self.key, "meadow", now=self.now)
        self.spoil = None
        self.seen = []
        (folder / "ca.pem").write_text(certificates.pem(self.ca))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._own_certificate())
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://localhost:{self._server.server_port}/.well-known/est/hedgerow"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def leaf(self, request):
        """What the double signs for a request, ``spoil`` considered."""
        names = self.table[request.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value]
        profile = Profile.GATEWAY if self.spoil == "profile" else Profile.DEVICE
        sans = certificates.device_sans(names, profile)
        if self.spoil == "names":
            sans = (*sans, x509.DNSName("gw-orchard.orchard.meadow"))
        return certificates.build_leaf(
            ca=self.ca,
            ca_key=certificates.new_key() if self.spoil == "signer" else self.key,
            public_key=certificates.new_key().public_key() if self.spoil == "key" else request.public_key(),
            profile=Profile.CLIENT if self.spoil == "usages" else profile,
            name=certificates.subject("meadow", profile, names.serial),
            sans=sans,
            not_before=self.now - certificates.BACKDATE,
            not_after=self.now + dt.timedelta(days=400 if self.spoil == "life" else 30),
        )

    def answer(self, path, headers, body):
        """(status, headers, body)."""
        if path != PATH:
            return 404, {}, b"no such label"
        if headers.get("Authorization") != self.authorization:
            return 401, {"WWW-Authenticate": 'Basic realm="est"'}, b"who are you"
        if headers.get("Content-Type") != "application/pkcs10":
            return 400, {}, b"no PKCS#10"
        request = x509.load_der_x509_csr(base64.b64decode(body))
        self.seen.append(request.subject.rfc4514_string())
        plain = {
            "busy": (202, {"Retry-After": "90"}, b"an operator looks at it"),
            "down": (503, {}, b""),
            "refused": (400, {}, b"unknown serial"),
            "garbage": (200, {}, b"hello"),
            "flood": (200, {}, b"A" * 100_000),
            "redirect": (302, {"Location": "https://localhost:1/elsewhere"}, b""),
        }
        if self.spoil in plain:
            return plain[self.spoil]
        data = pkcs7.serialize_certificates([self.leaf(request)], Encoding.DER)
        return 200, {"Content-Type": "application/pkcs7-mime; smime-type=certs-only"}, base64.encodebytes(data)

    def _handler(self):
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers, data = double.answer(self.path, self.headers, body)
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        return Handler

    def _own_certificate(self):
        """The server's own certificate for ``localhost``, of another CA than what it signs with."""
        key = certificates.new_key()
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        own = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - certificates.BACKDATE)
            .not_valid_after(self.now + dt.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(key, hashes.SHA256())
        )
        (self.folder / "server.pem").write_text(certificates.pem(own))
        path = self.folder / "server-with-key.pem"
        path.write_bytes(keyfile.encode(key, None) + certificates.pem(own).encode())
        return path
