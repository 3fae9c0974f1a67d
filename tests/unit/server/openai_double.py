"""Stands for a provider's endpoint: OpenAI's chat and completion interface, streamed, over HTTPS with mutual TLS.

It demands a certificate of the CA that it is given, and a bearer token; it answers what a test scripts, and notes what
it was sent and who hung up. It runs no model, and its token counts are the script's.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import ssl
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

TOKEN = "sekret-token-of-the-test"
PATIENCE_S = 30.0


class Cloud:
    """``pieces`` are said, each once ``gate`` lets it (unset: at once); ``usage`` None is not told.

    ``status``: answered instead. ``cut_after``: so many pieces, then the line is cut. ``events``: data lines instead.
    """

    def __init__(self, folder: Path, client_ca: Path) -> None:
        self.pieces = ["from ", "the ", "cloud"]
        self.usage: tuple[int, int] | None = (11, 3)
        self.finish = "stop"
        self.status = 200
        self.headers: dict[str, str] = {}
        self.kind = "text/event-stream"
        self.cut_after: int | None = None
        self.events: list[str] | None = None
        self.gate: threading.Semaphore | None = None
        self.seen: list[dict[str, Any]] = []
        self.left = threading.Event()
        self.ca = folder / "cloud-ca.crt"
        self.port = 0
        _write_certificates(folder)
        app = Starlette(
            routes=[
                Route(f"/v1/{name}", self._answer, methods=["POST"]) for name in ("chat/completions", "completions")
            ]
        )
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=0,
            lifespan="off",
            log_config=None,
            log_level="critical",
            ssl_certfile=folder / "cloud.crt",
            ssl_keyfile=folder / "cloud.key",
            ssl_ca_certs=str(client_ca),
            ssl_cert_reqs=ssl.CERT_REQUIRED,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._started = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),))
        self._thread.start()
        assert self._started.wait(PATIENCE_S)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/v1"

    def close(self) -> None:
        self._server.should_exit = True
        if self.gate is not None:
            self.gate.release(100_000)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        serving = asyncio.create_task(self._server._serve())
        while not self._server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.001)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self._started.set()
        await serving

    async def _answer(self, request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return JSONResponse({"error": {"message": "no such token"}}, status_code=401)
        asked = await request.json()
        self.seen.append({"path": request.url.path, "headers": dict(request.headers), "body": asked})
        if self.status != 200:
            return JSONResponse({"error": {"message": f"no: {asked}"}}, status_code=self.status, headers=self.headers)
        lines = self._lines(chat="messages" in asked)
        return StreamingResponse(self._said(lines), media_type=self.kind, headers=self.headers)

    def _lines(self, *, chat: bool) -> list[str]:
        if self.events is not None:
            return self.events

        def chunk(text: str | None, finish: str | None) -> str:
            said = {"delta": {} if text is None else {"content": text}} if chat else {"text": text or ""}
            return json.dumps({"id": "x", "choices": [{"index": 0, **said, "finish_reason": finish}], "usage": None})

        lines = [chunk(piece, None) for piece in self.pieces] + [chunk(None, self.finish)]
        if self.usage is not None:
            prompt, completion = self.usage
            usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
            lines.append(json.dumps({"id": "x", "choices": [], "usage": usage}))
        return [*lines, "[DONE]"]

    async def _said(self, lines: list[str]) -> AsyncIterator[bytes]:
        try:
            for number, line in enumerate(lines):
                if self.gate is not None:
                    while not self.gate.acquire(blocking=False):  # noqa: ASYNC110 - released by another thread
                        await asyncio.sleep(0.001)
                if self.cut_after is not None and number >= self.cut_after:
                    raise ConnectionAbortedError
                yield f"data: {line}\n\n".encode()
        except asyncio.CancelledError:
            self.left.set()
            raise


def _write_certificates(folder: Path) -> None:
    """``cloud-ca.crt``, and ``cloud.crt`` with ``cloud.key`` for ``localhost``."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cloud CA of a test")])
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key(), ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cloud of a test")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        _builder(name, ca_name, key.public_key(), ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    (folder / "cloud-ca.crt").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (folder / "cloud.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    (folder / "cloud.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, issuer_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
