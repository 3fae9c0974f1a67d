"""Whether a board's own key vouches for a request. Pure.

The Pi's key in one-time memory cannot be a TLS key (``keys_device.otp``). It signs the hash of the request for a key
in a file instead; who knows its public key, once seen at the board's first enrolment, takes no request without it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hedgerow.identity.keys_device.otp import message

__all__ = ["fingerprint", "holds", "message"]


def holds(public_key: str, csr_pem: str, signature: str) -> bool:
    """Whether ``signature`` (Base64 of DER) is the word of the key (PEM) for this request."""
    try:
        key = serialization.load_pem_public_key(public_key.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            return False
        key.verify(base64.b64decode(signature, validate=True), message(csr_pem), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True


def fingerprint(public_key: str) -> str:
    """SHA-256 (hex) of the key's SubjectPublicKeyInfo: what lists and logs call it.

    Raises:
        ValueError: it is no public key.
    """
    key = serialization.load_pem_public_key(public_key.encode())
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()
