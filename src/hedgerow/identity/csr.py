"""Certificate requests: decoded, and held to what every request must be. Pure."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hedgerow.errors import RefusedError, UsageError


def parse_csr(csr_pem: str, *, where: str) -> x509.CertificateSigningRequest:
    """Decode a request and check that its own key signed it."""
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
    except ValueError as error:
        raise UsageError(
            "this is no certificate request", where=where, next_step="make one: openssl req -new -key device.key"
        ) from error
    if not request.is_signature_valid:
        raise RefusedError(
            "the request is not signed by the key it names",
            where=where,
            next_step="make a new request on the device; the key must be the one that stays there",
        )
    return request


def request_serial(request: x509.CertificateSigningRequest) -> str:
    """The CN of a request: the board's serial."""
    names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def public_key(request: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    """The key that a request is for; RefusedError unless it is on P-256."""
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RefusedError(
            "the request's key is not on the curve P-256",
            where="rule: one kind of key for files, TPMs and the Pi's OTP key",
            next_step="openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        )
    return key
