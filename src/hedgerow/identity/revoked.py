"""Which certificates count no longer: lists (CRLs) as a server reads and applies them.

Pure: bytes in, decisions out; ``crlfile`` watches the file. OpenSSL's own checking (``VERIFY_CRL_CHECK_CHAIN``) is not
used: it refuses everybody once a list is out of date or one of several authorities has none, which would make a
forgotten refresh an outage of the whole fleet. Invariants:

- A list counts for certificates of the authority that signed it, shown by its signature; whoever can write the file
  without an authority's key can end nobody's access.
- A list that is out of date is applied as before: what it names stays refused. ``outdated`` tells that it is.
- A revoked authority ends all that it signed: every certificate of a chain is looked up.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

Chain = tuple[x509.Certificate, ...]
_BEGIN, _END = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"
_KEYS = (ec.EllipticCurvePublicKey, rsa.RSAPublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)


@dataclass(frozen=True, eq=False)
class RevocationList:
    """One authority's list. ``next_update`` is when a newer one should have come; None where it does not say."""

    crl: x509.CertificateRevocationList
    serials: frozenset[int]
    next_update: datetime | None

    @classmethod
    def of(cls, crl: x509.CertificateRevocationList) -> RevocationList:
        return cls(crl, frozenset(entry.serial_number for entry in crl), crl.next_update_utc)

    def signed_by(self, certificate: x509.Certificate) -> bool:
        """Whether the authority of ``certificate`` signed this list."""
        key = certificate.public_key()
        if certificate.subject != self.crl.issuer or not isinstance(key, _KEYS):
            return False
        return self.crl.is_signature_valid(key)


@dataclass(frozen=True)
class Lists:
    """The lists of a fleet; none at all refuses nobody."""

    lists: tuple[RevocationList, ...] = ()
    _signers: dict[tuple[int, bytes], bool] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def parse(cls, pem: bytes) -> Lists:
        """Read a bundle: PEM, one list behind the other; what stands between them is passed over.

        Raises:
            ValueError: there is no list in it, or one is damaged.
        """
        blocks = [part.partition(_END) for part in pem.split(_BEGIN)[1:]]
        if not blocks:
            raise ValueError("there is no certificate revocation list in it")
        if any(not end for _, end, _ in blocks):
            raise ValueError("a list is cut short")
        found = [x509.load_pem_x509_crl(_BEGIN + body + end + b"\n") for body, end, _ in blocks]
        return cls(tuple(RevocationList.of(crl) for crl in found))

    def revoked(
        self, chain: Sequence[x509.Certificate], anchors: Iterable[x509.Certificate] = ()
    ) -> x509.Certificate | None:
        """The first certificate of ``chain`` that was revoked; None if all count.

        ``chain`` begins with the holder's own. ``anchors``: authorities that the chain may leave out.
        """
        if not self.lists:
            return None
        authorities = [*chain[1:], *anchors]
        for certificate in chain:
            naming = [each for each in self.lists if certificate.serial_number in each.serials]
            for each in (each for each in naming if each.crl.issuer == certificate.issuer):
                if any(self._signed(each, authority) for authority in authorities):
                    return certificate
        return None

    def outdated(self, now: datetime) -> datetime | None:
        """Since when the oldest of the lists is out of date; None while all are current."""
        passed = [each.next_update for each in self.lists if each.next_update is not None and each.next_update <= now]
        return min(passed, default=None)

    def _signed(self, each: RevocationList, authority: x509.Certificate) -> bool:
        key = (id(each), fingerprint(authority))
        if key not in self._signers:
            self._signers[key] = each.signed_by(authority)
        return self._signers[key]


def verified_chain(tls: ssl.SSLObject | ssl.SSLSocket) -> Chain:
    """The certificates that OpenSSL verified the peer by, its own first; empty where it showed none."""
    return tuple(parsed(der) for der in _chain(tls))


@functools.lru_cache(maxsize=256)
def parsed(der: bytes) -> x509.Certificate:
    """A certificate of a chain; callers come back with the same one.

    Raises:
        ValueError: it is none.
    """
    return x509.load_der_x509_certificate(der)


def certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    """All certificates of a PEM file, none where it has none."""
    return tuple(x509.load_pem_x509_certificates(pem)) if b"-----BEGIN CERTIFICATE-----" in pem else ()


def fingerprint(certificate: x509.Certificate) -> bytes:
    """What a certificate is remembered by."""
    return certificate.fingerprint(hashes.SHA256())


def _chain(tls: Any) -> list[bytes]:
    if hasattr(tls, "get_verified_chain"):  # Python 3.13
        shown: list[bytes] = tls.get_verified_chain()
        return shown
    # The same under the name that 3.10 to 3.12 keep to themselves; ENCODING_DER is 2.
    inner = tls._sslobj  # noqa: SLF001 - see above
    return [each.public_bytes(2) for each in inner.get_verified_chain() or ()]
