"""Mutual TLS: a certificate that can be renewed while it is in use, and who the other end is."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from hedgerow import secretfile
from hedgerow.errors import MachineError, UsageError
from hedgerow.identity.profiles import Peer, peer
from hedgerow.identity.revoked import certificates, verified_chain
from hedgerow.server.access import PEER
from hedgerow.server.admission import Admission
from hedgerow.server.connection import BoundedProtocol

if TYPE_CHECKING:
    import asyncio

_NAMES = {
    NameOID.ORGANIZATION_NAME: "organizationName",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "organizationalUnitName",
    NameOID.COMMON_NAME: "commonName",
}


@dataclass(frozen=True)
class Files:
    """What the three files held when they were read, as PEM."""

    certificate: bytes
    key: bytes
    client_ca: bytes


class ServerTls:
    """Certificate, key and the CA that callers must be of.

    ``reload`` replaces them for new connections; running ones stay up. ``files`` is the same for libraries that bring
    their own TLS. ``crl``: where revoked certificates are listed; None, or no such file, revokes none. TLS 1.3 only:
    both ends are ours.

    ``context`` is what a server is given once. Each handshake then takes the latest of what ``reload`` has made: a
    context in use can be given another certificate, and never be made to forget an authority.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        client_ca: Path,
        *,
        crl: Path | None = None,
        flags: ssl.VerifyFlags = ssl.VerifyFlags.VERIFY_DEFAULT,
    ) -> None:
        """``flags``: beside the strict ones, for who judges part of it himself."""
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._flags = flags
        self.admission = None if crl is None else Admission(crl)
        self.context = self._empty()
        self._latest = self.context
        self.context.sni_callback = self._take_latest
        self.reload()

    def reload(self) -> None:
        """Read the files again.

        Raises:
            MachineError: they cannot be used, or everybody may read the key; what was loaded before stays in use.
        """
        try:
            with self._key.open("rb") as file:
                secretfile.refuse_public(file, self._key)
            # A context of its own: a half-written pair never reaches a handshake.
            latest = self._empty()
            latest.load_cert_chain(self._certificate, self._key)
            latest.load_verify_locations(self._client_ca)
            expires = _expiry(self._certificate)
            files = Files(*(path.read_bytes() for path in (self._certificate, self._key, self._client_ca)))
            anchors = certificates(files.client_ca)
        except UsageError as error:
            raise MachineError(error.what, where=error.where, next_step=error.next_step) from error
        except (OSError, ValueError) as error:
            raise MachineError(
                f"the server's certificate cannot be used: {error}",
                where=f"{self._certificate}, {self._key}, {self._client_ca}",
                next_step="converge the role device_identity on this host",
            ) from error
        self._latest, self.expires, self.files = latest, expires, files
        if self.admission is not None:
            self.admission.anchors = anchors
            self.admission.look()

    def _empty(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT | self._flags
        # A resumed session would outlive the certificate that opened it.
        context.num_tickets = 0
        return context

    def _take_latest(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._latest


class PeerProtocol(BoundedProtocol):
    """HTTP over mutual TLS, with the verified peer in the scope of every request of its connection.

    ``admission``: whoever's certificate was revoked is cut off, before a byte of what it sends is read.
    """

    def __init__(self, *args: Any, admission: Admission | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._admission = admission

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        tls = self.transport.get_extra_info("ssl_object")
        if self._admission is None or tls is None:
            return
        if not self._admission.enter(verified_chain(tls), self._cut):
            self._cut()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._admission is not None:
            self._admission.leave(self._cut)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        tls = self.transport.get_extra_info("ssl_object")
        self.scope[PEER] = None if tls is None else peer(tls.getpeercert())  # type: ignore[typeddict-unknown-key]

    def _cut(self) -> None:
        self.transport.abort()


@functools.lru_cache(maxsize=256)
def peer_of(pem: bytes) -> tuple[Peer | None, datetime]:
    """Who a certificate names, and when it ends; its chain has been verified.

    Raises:
        ValueError: it is no certificate.
    """
    certificate = x509.load_pem_x509_certificate(pem)
    return peer(_as_ssl_shows(certificate)), certificate.not_valid_after_utc


def _as_ssl_shows(certificate: x509.Certificate) -> Mapping[str, object]:
    """The parts of ``ssl.SSLSocket.getpeercert()`` that a peer is known by."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = tuple(("DNS", name) for name in extension.value.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        names = ()
    return {
        "subject": _as_ssl_shows_name(certificate.subject),
        "issuer": _as_ssl_shows_name(certificate.issuer),
        "subjectAltName": names,
    }


def _as_ssl_shows_name(name: x509.Name) -> tuple[tuple[tuple[str, object], ...], ...]:
    return tuple(tuple((_NAMES[each.oid], each.value) for each in names if each.oid in _NAMES) for names in name.rdns)


def _expiry(certificate: Path) -> datetime:
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc.astimezone(UTC)
