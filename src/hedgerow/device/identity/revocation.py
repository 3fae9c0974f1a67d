"""The list of revoked certificates on a device: fetched from the gateway, which is not trusted with it.

Rules:

- Every list in the file is signed by a CA that chains to this device's own ``ca.crt``. Lists of strangers are left out.
- No list's number goes back, and none of a CA that is still trusted goes missing: who holds the gateway could otherwise
  bring a revoked certificate back to life.
- A list that has run out stays better than none, and is taken; who enforces it says so (docs/device-identity.md).
- Issuing CAs' certificates are kept in the file beside their lists: leaving them out of an answer hides nothing.
- The file is replaced in one step, or not at all.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hedgerow import atomic
from hedgerow.errors import PublisherError
from hedgerow.identity.keys_device.tool import EnrolError, openssl

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_LIST, _CERTIFICATE = b"X509 CRL", b"CERTIFICATE"

Lists = list[x509.CertificateRevocationList]


@dataclass(frozen=True)
class Refreshed:
    """``numbers``: issuer → number of the list in place. ``left_out`` are issuers that nobody here trusts."""

    changed: bool
    numbers: dict[str, int]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verified:
    """Lists that CAs of ours signed, the issuing CAs among these, and the issuers of lists that are none of ours."""

    lists: Lists
    authorities: list[x509.Certificate]
    strange: tuple[str, ...]

    def pem(self) -> bytes:
        authorities = [each.public_bytes(Encoding.PEM) for each in self.authorities]
        return b"".join([*authorities, *(each.public_bytes(Encoding.PEM) for each in self.lists)])


def verified(data: bytes, anchors: Path, chain: bytes = b"") -> Verified:
    """What is good of ``data`` (PEM).

    ``chain`` has more certificates (PEM) that may be issuing CAs, as ``data`` itself may.

    Raises:
        PublisherError: a block cannot be read, or a CA of ours did not sign what says so.
    """
    blocks = [(found[1], found[0]) for found in _BLOCK.finditer(data)]
    try:
        lists = [x509.load_pem_x509_crl(text) for kind, text in blocks if kind == _LIST]
        candidates = [
            x509.load_pem_x509_certificate(text)
            for text in (*(text for kind, text in blocks if kind == _CERTIFICATE), *_certificates(chain))
        ]
        trusted = [x509.load_pem_x509_certificate(text) for text in _certificates(anchors.read_bytes())]
    except ValueError as error:
        raise PublisherError(
            f"the list of revoked certificates cannot be read: {error}",
            where="/identity/crl.pem",
            next_step="on the controller: hedgerow ca crl",
        ) from error
    issuing = [each for each in dict.fromkeys(candidates) if each not in trusted and _chains(each, anchors)]
    trusted += issuing
    good: Lists = []
    strange = []
    for each in lists:
        issuers = [ca for ca in trusted if ca.subject == each.issuer]
        if not issuers:
            strange.append(each.issuer.rfc4514_string())
        elif any(each.is_signature_valid(ca.public_key()) for ca in issuers):  # type: ignore[arg-type]
            good.append(each)  # a CA's key is of a kind that signs: ``_chains`` and enrolment saw to it
        else:
            raise PublisherError(
                f"the list of {each.issuer.rfc4514_string()} is not signed by it; the old one stays",
                where="/identity/crl.pem",
                next_step="look at the gateway: who changed it?",
            )
    named = {each.issuer for each in good}
    return Verified(good, [each for each in issuing if each.subject in named], tuple(strange))


def refresh(path: Path, data: bytes, anchors: Path, chain: bytes = b"") -> Refreshed:
    """Put what is good of ``data`` into ``path``, unless that would take a step back.

    Raises:
        PublisherError: it would, or ``verified`` finds a fault; what is in place stays.
    """
    present = _present(path, anchors, chain)
    fresh = verified(data, anchors, chain + present.pem())
    numbers = _numbers(fresh.lists)
    for issuer, number in _numbers(present.lists).items():
        if issuer not in numbers:
            raise PublisherError(
                f"the list of {issuer} is missing; the old one stays",
                where="/identity/crl.pem",
                next_step="on the controller: hedgerow ca crl; then place it on the gateway again",
            )
        if numbers[issuer] < number:
            raise PublisherError(
                f"the list of {issuer} has number {numbers[issuer]}, this device has {number}; the newer one stays",
                where="/identity/crl.pem",
                next_step="on the controller: hedgerow ca crl; then place it on the gateway again",
            )
    text = fresh.pem()
    if not fresh.lists or (path.exists() and path.read_bytes() == text):
        return Refreshed(changed=False, numbers=numbers, left_out=fresh.strange)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    atomic.write_bytes(path, text)
    return Refreshed(changed=True, numbers=numbers, left_out=fresh.strange)


def read(path: Path, anchors: Path, chain: bytes = b"") -> Lists:
    """What is in place and still signed by a CA of ours; a damaged file counts for nothing, and is replaced."""
    return _present(path, anchors, chain).lists


def _present(path: Path, anchors: Path, chain: bytes) -> Verified:
    try:
        return verified(path.read_bytes(), anchors, chain)
    except (FileNotFoundError, PublisherError):
        return Verified([], [], ())


def _numbers(lists: Lists) -> dict[str, int]:
    """Issuer (by name and key) → the number of its list.

    Raises:
        PublisherError: a list has no number, or does not say whose key signed it.
    """
    found: dict[str, int] = {}
    for each in lists:
        try:
            key = each.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier or b""
            number = each.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        except x509.ExtensionNotFound as error:
            raise PublisherError(
                f"the list of {each.issuer.rfc4514_string()} has no number or no key identifier: {error}",
                where="/identity/crl.pem",
                next_step="on the controller: hedgerow ca crl",
            ) from error
        found[f"{each.issuer.rfc4514_string()} {key.hex()[:16]}".strip()] = number
    return found


def _certificates(data: bytes) -> list[bytes]:
    return [found[0] for found in _BLOCK.finditer(data) if found[1] == _CERTIFICATE]


def _chains(certificate: x509.Certificate, anchors: Path) -> bool:
    """Whether it is a CA that one of ``anchors`` signed: by openssl, for cryptography knows no URI constraints."""
    try:
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
    except x509.ExtensionNotFound:
        return False
    with tempfile.NamedTemporaryFile(prefix="hedgerow-ca-") as file:
        file.write(certificate.public_bytes(Encoding.PEM))
        file.flush()
        try:
            openssl(
                *("verify", "-x509_strict", "-no_check_time", "-no-CApath", "-no-CAstore"),
                *("-CAfile", str(anchors), file.name),
            )
        except EnrolError:
            return False
    return True
