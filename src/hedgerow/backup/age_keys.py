"""Who can open an age file: X25519 key pairs and passphrases, each wrapping the file key in a stanza of the header."""

from __future__ import annotations

import base64
import binascii
import os
from typing import Final, NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from hedgerow.backup import bech32
from hedgerow.errors import HedgerowError, UsageError

VERSION: Final = b"age-encryption.org/v1"
X25519: Final = "X25519"
SCRYPT: Final = "scrypt"
FILE_KEY: Final = 16
TAG: Final = 16
WORK_FACTOR: Final = 18
"""log2 of scrypt's N, as age itself takes: about a second and 256 MiB."""
OTHER_COPY: Final = "take another copy of the backup"

_NONCE = bytes(12)
_X25519_INFO, _SCRYPT_LABEL = VERSION + b"/X25519", VERSION + b"/scrypt"
_RECIPIENT_PREFIX, _IDENTITY_PREFIX = "age", "age-secret-key-"
_MAX_WORK_FACTOR = 22


class DamagedError(HedgerowError):
    """The file was cut off or altered, or is no age file."""


class Stanza(NamedTuple):
    """One wrapping of the file key."""

    kind: str
    arguments: list[str]
    body: bytes


class Wrapper(Protocol):
    """Who can open a file that is being written."""

    def wrap(self, file_key: bytes) -> Stanza: ...


class Opener(Protocol):
    """What opens a file: the file key, or None where the stanza is another's."""

    def unwrap(self, stanza: Stanza) -> bytes | None: ...


class Recipient:
    """A public key, ``age1…``.

    Raises:
        UsageError: it is none.
    """

    def __init__(self, text: str) -> None:
        try:
            self._key = X25519PublicKey.from_public_bytes(bech32.decode(text.strip(), _RECIPIENT_PREFIX))
        except ValueError as error:
            next_step = "age-keygen, or hedgerow backup key --output FILE, prints one"
            raise UsageError(f"this is no age recipient: {error}", where=text[:80], next_step=next_step) from error

    def wrap(self, file_key: bytes) -> Stanza:
        ephemeral = X25519PrivateKey.generate()
        share, mine = ephemeral.public_key().public_bytes_raw(), self._key.public_bytes_raw()
        key = hkdf(ephemeral.exchange(self._key), share + mine, _X25519_INFO)
        return Stanza(X25519, [encode(share)], ChaCha20Poly1305(key).encrypt(_NONCE, file_key, None))


class Identity:
    """A private key, ``AGE-SECRET-KEY-1…``.

    Raises:
        UsageError: it is none; the text itself is never repeated.
    """

    def __init__(self, text: str) -> None:
        try:
            self._key = X25519PrivateKey.from_private_bytes(bech32.decode(text.strip(), _IDENTITY_PREFIX))
        except ValueError as error:
            raise UsageError(f"this is no age identity: {error}") from error

    @classmethod
    def generate(cls) -> Identity:
        return cls(bech32.encode(_IDENTITY_PREFIX, X25519PrivateKey.generate().private_bytes_raw()))

    @property
    def text(self) -> str:
        """The secret itself, as age writes it."""
        return bech32.encode(_IDENTITY_PREFIX, self._key.private_bytes_raw()).upper()

    @property
    def recipient(self) -> str:
        return bech32.encode(_RECIPIENT_PREFIX, self._key.public_key().public_bytes_raw())

    def unwrap(self, stanza: Stanza) -> bytes | None:
        if stanza.kind != X25519 or len(stanza.arguments) != 1:
            return None
        share = decode(stanza.arguments[0])
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(share))
        except ValueError as error:
            raise damaged("a recipient's line") from error
        key = hkdf(shared, share + self._key.public_key().public_bytes_raw(), _X25519_INFO)
        return _unwrap(key, stanza.body)


class Passphrase:
    """A passphrase, in both directions. It is the only recipient of its file."""

    def __init__(self, secret: str, *, work_factor: int = WORK_FACTOR) -> None:
        self._secret = secret.encode()
        self._work_factor = work_factor

    def wrap(self, file_key: bytes) -> Stanza:
        salt = os.urandom(16)
        body = ChaCha20Poly1305(self._derive(salt, self._work_factor)).encrypt(_NONCE, file_key, None)
        return Stanza(SCRYPT, [encode(salt), str(self._work_factor)], body)

    def unwrap(self, stanza: Stanza) -> bytes | None:
        if stanza.kind != SCRYPT or len(stanza.arguments) != 2:  # noqa: PLR2004 - salt and work factor
            return None
        salt, factor = decode(stanza.arguments[0]), stanza.arguments[1]
        if not (factor.isascii() and factor.isdigit()) or factor.startswith("0") or int(factor) > _MAX_WORK_FACTOR:
            raise damaged(f"the passphrase's work factor {factor[:8]}")
        return _unwrap(self._derive(salt, int(factor)), stanza.body)

    def _derive(self, salt: bytes, factor: int) -> bytes:
        return Scrypt(salt=_SCRYPT_LABEL + salt, length=32, n=1 << factor, r=8, p=1).derive(self._secret)


def damaged(where: str) -> DamagedError:
    return DamagedError(f"the file is damaged: {where}", next_step=OTHER_COPY)


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(secret)


def _unwrap(key: bytes, body: bytes) -> bytes | None:
    if len(body) != FILE_KEY + TAG:
        raise damaged("a wrapped key")
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, body, None)
    except InvalidTag:
        return None


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def decode(text: str) -> bytes:
    """Unpadded canonical base64."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise damaged("its header") from error
    if encode(data) != text:
        raise damaged("its header")
    return data
