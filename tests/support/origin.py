"""A bucket behind HTTPS, as a caching gateway sees one: static files with ranges and ETags, by the standard library.

In a test: ``Origin(folder, identity)`` on loopback, with what it was asked for and faults to set. On an emulated host,
which has this file and Python alone, as a program:

    python3 origin.py serve --root FOLDER --identity FOLDER --port 9443 --log FILE
    python3 origin.py identity FOLDER...

An identity is a folder with ``server.key``, ``server.crt`` and ``ca.crt``, as the second command makes it where there
is the package ``cryptography``. What the origin was asked for goes to the log, a line of JSON each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import ssl
import threading
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

NAME = "models.origin.test"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class Asked:
    """One request: what it named, what it said, and the bytes of content that went out."""

    method: str
    path: str
    status: int
    sent: int
    headers: dict[str, str]
    certificate: str = ""

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class Faults:
    """What is wrong with the origin. ``missing``: how it says that there is no such file, as S3 403."""

    status: int | None = None
    missing: int = 404
    ranges: bool = True
    cut_after: int | None = None
    extra: dict[str, str] = field(default_factory=dict)


class Origin:
    """Serves ``root`` to whoever trusts ``identity``'s CA; ``client_ca``: to holders of its certificates alone."""

    def __init__(
        self, root: Path, identity: Path, *, address: str = "127.0.0.1", port: int = 0, client_ca: Path | None = None
    ) -> None:
        self.root, self.identity, self.client_ca = root, identity, client_ca
        self.asked: list[Asked] = []
        self.faults = Faults()
        self.log: Path | None = None
        self._address, self.port = address, port
        self._server: ThreadingHTTPServer | None = None
        self.start()

    def start(self) -> None:
        """Serve, at the same port as before."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.identity / "server.crt", self.identity / "server.key")
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.client_ca)
        origin = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, request: Any, client_address: Any) -> None:
                # In the connection's own thread: a peer that hangs in its handshake holds nobody else.
                request.settimeout(30)
                with context.wrap_socket(request, server_side=True) as wrapped:
                    _Handler(wrapped, client_address, self, origin=origin)

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Refused handshakes and cut lines are what tests are about."""

        self._server = Server((self._address, self.port), _Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Nobody listens any more."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def note(self, asked: Asked) -> None:
        self.asked.append(asked)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(json.dumps(asdict(asked)) + "\n")

    def of(self, path: str) -> list[Asked]:
        """Requests for ``path``, oldest first."""
        return [asked for asked in self.asked if asked.path == path]


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, *arguments: Any, origin: Origin) -> None:
        self._origin = origin
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        origin, path = self._origin, unquote(self.path)
        file = origin.root / path.lstrip("/")
        if origin.faults.status is not None:
            self._answer(origin.faults.status, b"broken")
        elif ".." in file.parts or not file.is_file():
            self._answer(origin.faults.missing, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._file(file.read_bytes())

    def _file(self, data: bytes) -> None:
        tag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        headers = {"ETag": tag, **({"Accept-Ranges": "bytes"} if self._origin.faults.ranges else {})}
        asked = _RANGE.fullmatch(self.headers.get("range", "")) if self._origin.faults.ranges else None
        if self.headers.get("if-none-match") == tag:
            self._answer(304, b"", **headers)
        elif asked is None:
            self._answer(200, data, **headers)
        elif (start := int(asked[1])) >= len(data):
            self._answer(416, b"", **{"Content-Range": f"bytes */{len(data)}"})
        else:
            end = min(len(data), int(asked[2]) + 1) if asked[2] else len(data)
            said = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
            self._answer(206, data[start:end], **headers, **said)

    def _answer(self, status: int, data: bytes, **headers: str) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in (headers | self._origin.faults.extra).items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        sent = data[: self._origin.faults.cut_after] if self.command != "HEAD" else b""
        # Noted before the last byte goes: whoever has the answer may count at once.
        self._origin.note(
            Asked(
                self.command,
                self.path,
                status,
                len(sent),
                {name.lower(): value for name, value in self.headers.items()},
                str(dict(part[0] for part in (self.connection.getpeercert() or {}).get("subject", ()))),
            )
        )
        self.wfile.write(sent)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Stay quiet."""


def make_identity(folder: Path, name: str = NAME) -> Path:
    """A CA of its own, ``server.key`` and ``server.crt`` for ``name``; returns ``folder``."""
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    folder.mkdir(parents=True, exist_ok=True)
    now = dt.datetime.now(dt.UTC)

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def builder(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=30))
        )

    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = f"Authority of {folder.name}"
    ca = builder(authority, authority, ca_key).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    leaf = builder("an origin", authority, key).add_extension(
        x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    (folder / "server.crt").write_bytes(leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    (folder / "server.key").touch(mode=0o600)
    (folder / "server.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


def main() -> None:
    """Serve until stopped, or make identities that are not there yet."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    serve, make = commands.add_parser("serve"), commands.add_parser("identity")
    for option in ("--root", "--identity", "--log"):
        serve.add_argument(option, type=Path, required=True)
    serve.add_argument("--port", type=int, required=True)
    make.add_argument("folders", type=Path, nargs="+")
    given = parser.parse_args()
    if hasattr(given, "folders"):
        for folder in given.folders:
            if not (folder / "server.crt").exists():
                make_identity(folder)
        return
    origin = Origin(given.root, given.identity, address="0.0.0.0", port=given.port)
    given.log.touch()
    origin.log = given.log
    threading.Event().wait()


if __name__ == "__main__":
    main()
