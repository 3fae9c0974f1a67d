"""Revocation lists: built, read, and put together. Pure: no files, and the time is an argument.

- A list's number is the time in seconds, or one more than the last if that is larger: it grows even where a CA was
  restored from an older backup, so devices, which take no lower number, go on taking lists.
- An entry stays until ``KEEP`` after its certificate's end: an expired certificate still opens grace renewal.
- A bundle is PEM: for every CA its list, before it the CA's certificate unless it is a root. Readers of lists pass over
  certificates; a root would be one more thing to trust, so none is in it.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hedgerow.identity import certificates
from hedgerow.identity.authority import build

KEEP: Final = dt.timedelta(days=90)
ISSUING_LIFE: Final = dt.timedelta(days=7)
ROOT_LIFE: Final = dt.timedelta(days=180)  # the root is offline; its list changes when an issuing CA is revoked
_BLOCK = re.compile(r"-----BEGIN (X509 CRL|CERTIFICATE)-----.*?-----END \1-----\n?", re.DOTALL)


class Entry(NamedTuple):
    """A revoked certificate: its serial number (hex), and when it was revoked."""

    serial_number: str
    at: dt.datetime


def build_list(
    issuer: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    entries: Iterable[Entry],
    *,
    last: x509.CertificateRevocationList | None,
    now: dt.datetime,
    life: dt.timedelta,
) -> x509.CertificateRevocationList:
    """The list of what ``issuer`` signed and is revoked, valid until ``now + life``; ``last`` is the one before."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        # As for certificates: the clock of a Pi may run behind.
        .last_update(now - certificates.BACKDATE)
        .next_update(now + life)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.CRLNumber(max(int(now.timestamp()), 0 if last is None else number(last) + 1)), critical=False
        )
    )
    for entry in sorted(set(entries)):
        revoked = (
            x509.RevokedCertificateBuilder()
            .serial_number(int(entry.serial_number, 16))
            .revocation_date(entry.at)
            .build()
        )
        builder = builder.add_revoked_certificate(revoked)
    return builder.sign(key, hashes.SHA256())


def number(found: x509.CertificateRevocationList) -> int:
    """The list's number; 0 if it says none."""
    try:
        return found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def serials(found: x509.CertificateRevocationList) -> frozenset[str]:
    """Serial numbers (hex) on a list."""
    return frozenset(f"{entry.serial_number:x}" for entry in found)


def is_of(found: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """Whether ``issuer`` signed the list."""
    key = issuer.public_key()
    return (
        found.issuer == issuer.subject and isinstance(key, ec.EllipticCurvePublicKey) and found.is_signature_valid(key)
    )


def current(found: x509.CertificateRevocationList | None, entries: Iterable[Entry], *, now: dt.datetime) -> bool:
    """Whether a list says all of ``entries`` and has more than half of its life left."""
    if found is None or found.next_update_utc is None:
        return False
    left = found.next_update_utc - now
    return (
        serials(found) == {entry.serial_number for entry in entries}
        and left > (found.next_update_utc - found.last_update_utc) / 2
    )


def pem(found: x509.CertificateRevocationList) -> str:
    return found.public_bytes(serialization.Encoding.PEM).decode()


def bundle(lists: Iterable[tuple[x509.Certificate, x509.CertificateRevocationList]]) -> str:
    """One text of all lists, with the certificates of the CAs that are no roots."""
    parts = []
    for issuer, found in lists:
        if issuer.subject != issuer.issuer:
            parts.append(certificates.pem(issuer))
        parts.append(pem(found))
    return "".join(parts)


def merge(*texts: str) -> str:
    """Put bundles together: of each CA the list with the highest number. For a gateway, whose own list is the newest.

    Signatures are not looked at: who reads the result verifies them.

    Raises:
        ValueError: a block is damaged.
    """
    lists: dict[tuple[bytes, bytes], x509.CertificateRevocationList] = {}
    issuers: dict[str, str] = {}
    for text in texts:
        for block in _BLOCK.finditer(text):
            if block[1] == "CERTIFICATE":
                issuers[build.authority_key(x509.load_pem_x509_certificate(block[0].encode()))] = block[0]
                continue
            found = x509.load_pem_x509_crl(block[0].encode())
            key = (found.issuer.public_bytes(), _authority_key(found))
            if key not in lists or number(found) > number(lists[key]):
                lists[key] = found
    return "".join(issuers.get(key.hex(), "") + pem(found) for (_, key), found in lists.items())


def _authority_key(found: x509.CertificateRevocationList) -> bytes:
    try:
        identifier = found.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return b""
    return identifier or b""
