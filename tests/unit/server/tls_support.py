"""Certificates of every right and wrong kind, revocation lists, and a small server behind the real TLS and protocol."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hedgerow.identity import certificates, keyfile
from hedgerow.identity.authority import build
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import RULES, DeviceNames, Profile
from hedgerow.server import run
from hedgerow.server.config import Address, Limits
from hedgerow.server.tls import ServerTls

FLEET, SITE, HOST, SERIAL = "meadow-unit", "orchard", "pi-1", "00000000deadbeef"
NAME = f"{HOST}.{SITE}.{FLEET}"
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Pair:
    """A holder's files; the certificate's file has its chain, the holder's own first."""

    key: Path
    certificate: Path

    @property
    def leaf(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes())


@dataclass(frozen=True)
class Signer:
    """A CA of a fleet with its key. ``chain`` is what its holders send behind their own; ``root`` is the anchor."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]
    root: x509.Certificate
    folder: Path

    @classmethod
    def single(cls, folder: Path, fleet: str = FLEET) -> Signer:
        """The one CA of a fleet in one tier."""
        key = certificates.new_key()
        root = certificates.build_ca(key, fleet, now=now())
        return cls(root, key, (), root, folder)

    @classmethod
    def below(cls, folder: Path, *, site: str | None = None, fleet: str = FLEET) -> tuple[Signer, Signer]:
        """A root, and an issuing CA below it."""
        root_key, key = certificates.new_key(), certificates.new_key()
        root = build.build_root(root_key, fleet, now=now())
        issuing = build.build_issuing(root, root_key, key.public_key(), site=site, now=now())
        return cls(root, root_key, (), root, folder), cls(issuing, key, (issuing,), root, folder)

    def issue(
        self,
        profile: Profile,
        *,
        host: str = HOST,
        site: str = SITE,
        fleet: str = FLEET,
        serial: str = SERIAL,
        ends: dt.timedelta = dt.timedelta(days=7),
        begins: dt.timedelta = dt.timedelta(hours=-1),
        usages: Iterable[x509.ObjectIdentifier] | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Pair:
        """A certificate, whatever rules of the CA it breaks."""
        key = key or certificates.new_key()
        server = RULES[profile].server
        name = serial if server else f"unit-{profile.value}"
        names = DeviceNames(fleet=fleet, site=site, host=host, serial=serial)
        leaf = certificates.build_leaf(
            ca=self.certificate,
            ca_key=self.key,
            public_key=key.public_key(),
            profile=profile,
            name=certificates.subject(fleet, profile, name),
            sans=certificates.device_sans(names, profile) if server else certificates.client_sans(fleet, profile),
            not_before=now() + min(begins, ends - dt.timedelta(hours=1)),
            not_after=now() + ends,
        )
        if usages is not None:
            leaf = self._with_usages(leaf, usages)
        return self.save([leaf, *self.chain], key)

    def save(self, chain: Iterable[x509.Certificate], key: ec.EllipticCurvePrivateKey) -> Pair:
        """Write a pair of files of its own."""
        chain = list(chain)
        stem = self.folder / f"{chain[0].serial_number:x}"
        pair = Pair(stem.with_suffix(".key"), stem.with_suffix(".crt"))
        pair.key.touch(mode=0o600)
        pair.key.write_bytes(private_pem(key))
        pair.certificate.write_text("".join(map(certificates.pem, chain)))
        return pair

    def crl(
        self,
        *gone: x509.Certificate,
        number: int = 1,
        next_update: dt.timedelta = dt.timedelta(days=2),
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> str:
        """This CA's list, PEM. ``key``: another's signature."""
        key = key or self.key
        made = now() - dt.timedelta(days=10)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(made)
            .next_update(now() + next_update)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        for certificate in gone:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(made)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def _with_usages(self, leaf: x509.Certificate, usages: Iterable[x509.ObjectIdentifier]) -> x509.Certificate:
        builder = x509.CertificateBuilder(
            issuer_name=leaf.issuer,
            subject_name=leaf.subject,
            public_key=leaf.public_key(),
            serial_number=leaf.serial_number,
            not_valid_before=leaf.not_valid_before_utc,
            not_valid_after=leaf.not_valid_after_utc,
        )
        for each in leaf.extensions:
            value = x509.ExtendedKeyUsage(usages) if isinstance(each.value, x509.ExtendedKeyUsage) else each.value
            builder = builder.add_extension(value, critical=each.critical)
        return builder.sign(self.key, hashes.SHA256())


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signer_of(ca: FleetCA) -> Signer:
    """A fleet's own CA as one that breaks its rules."""
    return Signer(ca.certificate, keyfile.load(ca.folder / "ca.key"), (), ca.certificate, ca.folder)


def write_server_files(folder: Path, signer: Signer, **issued: Any) -> Path:
    """``device.key``, ``device.crt`` and ``ca.crt`` of a server; returns ``folder``."""
    folder.mkdir(exist_ok=True)
    pair = signer.issue(Profile.DEVICE, **issued)
    pair.key.replace(folder / "device.key")
    pair.certificate.replace(folder / "device.crt")
    (folder / "ca.crt").write_text(certificates.pem(signer.root))
    return folder


def opened(folder: Path, crl: Path | None = None) -> ServerTls:
    return ServerTls(folder / "device.crt", folder / "device.key", folder / "ca.crt", crl=crl)


def caller(pair: Pair | None, anchor: x509.Certificate) -> ssl.SSLContext:
    """A client with ``pair``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certificates.pem(anchor))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


def connected(port: int, context: ssl.SSLContext, name: str = NAME) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    return context.wrap_socket(plain, server_hostname=name)


def asked(connection: ssl.SSLSocket, path: str = "/", name: str = NAME) -> int:
    """GET on a connection that stays; the status."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            raise ConnectionResetError("closed without an answer")
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line.partition(b":")[2]) for line in head.split(b"\r\n") if b"content-length:" in line.lower())
    while len(body) < length:
        body += connection.recv(65536)
    return int(head.split()[1])


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """The smallest application there is."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


class Door:
    """``app`` on a port behind mutual TLS, as the inference server has it; on a thread of its own."""

    def __init__(self, tls: ServerTls, app: Any = hello) -> None:
        self.tls = tls
        self._listener = run.Listener(run.listen(Address("127.0.0.1", 0)), app, tls)
        self.port = self._listener.socket.getsockname()[1]
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main)
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)

    def call(self, function: Callable[[], Any]) -> Any:
        """Run ``function`` on the loop that serves, as a signal's handler does."""

        async def on_loop() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result(PATIENCE_S)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(functools.partial(setattr, self._server, "should_exit", True))  # noqa: FBT003
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _main(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._server = run._Server(run._uvicorn_config(self._listener, Limits(drain_s=1.0)))
            self._ready.set()
            await self._server.serve(sockets=[self._listener.socket])

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())
