"""Mutual TLS: a certificate that can be renewed while it is in use, and who the other end is."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from hedgerow import secretfile
from hedgerow.errors import MachineError, UsageError
from hedgerow.identity.profiles import Peer, peer
from hedgerow.server.access import PEER
from hedgerow.server.connection import BoundedProtocol

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

    ``reload`` replaces them in the living context: new connections get the new ones, running ones stay up. ``files``
    is the same for libraries that bring their own TLS. TLS 1.3 only: both ends are ours.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.verify_flags |= ssl.VERIFY_X509_STRICT
        # A resumed session would outlive the certificate that opened it.
        self.context.num_tickets = 0
        self.reload()

    def reload(self) -> None:
        """Read the files again.

        Raises:
            MachineError: they cannot be used, or everybody may read the key; what was loaded before stays in use.
        """
        try:
            with self._key.open("rb") as file:
                secretfile.refuse_public(file, self._key)
            # Tried on a context of its own, so that a half-written pair never reaches the living one.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key)
            self.context.load_cert_chain(self._certificate, self._key)
            self.context.load_verify_locations(self._client_ca)
            self.expires = _expiry(self._certificate)
            self.files = Files(*(path.read_bytes() for path in (self._certificate, self._key, self._client_ca)))
        except UsageError as error:
            raise MachineError(error.what, where=error.where, next_step=error.next_step) from error
        except (OSError, ValueError) as error:
            raise MachineError(
                f"the server's certificate cannot be used: {error}",
                where=f"{self._certificate}, {self._key}, {self._client_ca}",
                next_step="converge the role device_identity on this host",
            ) from error


class PeerProtocol(BoundedProtocol):
    """HTTP over mutual TLS, with the verified peer in the scope of every request of its connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        tls = self.transport.get_extra_info("ssl_object")
        self.scope[PEER] = None if tls is None else peer(tls.getpeercert())  # type: ignore[typeddict-unknown-key]


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
    subject = tuple(
        tuple((_NAMES[each.oid], each.value) for each in names if each.oid in _NAMES)
        for names in certificate.subject.rdns
    )
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = tuple(("DNS", name) for name in extension.value.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        names = ()
    return {"subject": subject, "subjectAltName": names}


def _expiry(certificate: Path) -> datetime:
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc.astimezone(UTC)
