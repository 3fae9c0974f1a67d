"""Private keys: made, found by their URI, and opened when something must be signed.

- A file is PKCS#8 under a passphrase (``hedgerow.passphrases``), mode 0600.
- PKCS#11 and key management services are securesystemslib's signers; a token's PIN is asked for as a passphrase is.
- A key whose private part is not here is no error until its signature is missed: root's should be elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlparse

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from securesystemslib.signer import CryptoSigner, HSMSigner, Key, Signer, SSlibKey
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata

from hedgerow import atomic, tokens
from hedgerow.errors import MachineError, UsageError
from hedgerow.passphrases import Passphrases as Passphrases  # noqa: PLC0414 - a stage's users ask for it here
from hedgerow.passphrases import read_passphrase as read_passphrase  # noqa: PLC0414 - same
from hedgerow.registry.authority.settings import KEYS, KeyEntry, Settings

FILE_SCHEME: Final = "pem"
OWNER_FIELD: Final = "x-hedgerow-owner"
_KEY_MODE = 0o600
# PKCS#8 stretches a passphrase little (PBKDF2); a short one would be found by trying.
_MIN_PASSPHRASE = 12


class Keyring:
    """The keys of a stage, opened as they are needed. ``only`` keeps others from signing."""

    def __init__(self, settings: Settings, directory: Path, passphrases: Passphrases, only: Iterable[str] = ()) -> None:
        self._names = {entry.keyid: name for name, entry in settings.keys.items()}
        self._settings = settings
        self._directory = directory
        self._passphrases = passphrases
        self._only = frozenset(only)
        self._opened: dict[str, Signer | None] = {}
        for name in sorted(self._only - settings.keys.keys()):
            raise unknown_key(name, settings)

    def name(self, keyid: str) -> str:
        """What people call a key."""
        return self._names.get(keyid, keyid[:12])

    def owns(self, keyid: str) -> bool:
        """Whether a key is one that may sign here; nothing is opened, so a token counts though it be unplugged."""
        name = self._names.get(keyid)
        if name is None or (self._only and name not in self._only):
            return False
        scheme, _, rest = self._settings.keys[name].uri.partition(":")
        return scheme != FILE_SCHEME or (self._directory / rest).exists()

    def signer(self, keyid: str) -> Signer | None:
        """Open a key; None where its private part is not here, or it was not asked to sign.

        Raises:
            UsageError: it is here and cannot be opened.
        """
        if keyid not in self._opened:
            name = self._names.get(keyid)
            asked = name is not None and (not self._only or name in self._only)
            self._opened[keyid] = self._open(name) if name is not None and asked else None
        return self._opened[keyid]

    def _open(self, name: str) -> Signer | None:
        entry = self._settings.keys[name]
        file = entry.passphrase_file
        hint = None if file is None else self._directory / file
        return open_uri(
            entry.uri,
            public_key(entry),
            lambda: self._passphrases.of(name, hint),
            directory=self._directory,
            pkcs11_module=self._settings.pkcs11_module,
        )


def public_key(entry: KeyEntry) -> Key:
    """A key as metadata names it; its owner stands there, signed."""
    return Key.from_dict(entry.keyid, {**entry.public, OWNER_FIELD: entry.owner})


def owner(key: Key) -> str:
    """Who answers for a key, as the metadata says."""
    return str(key.unrecognized_fields.get(OWNER_FIELD, "unknown"))


def material(key: Key) -> str:
    """What makes two keys the same, whatever they are called."""
    return str(sorted(key.keyval.items()))


def open_uri(
    uri: str, public: Key, secret: Callable[[], str], *, directory: Path, pkcs11_module: str | None = None
) -> Signer | None:
    """Open the private part of ``public``; None where it is not here.

    Raises:
        UsageError: it is another key, readable for others, or the passphrase is wrong.
    """
    scheme, _, rest = uri.partition(":")
    if scheme == FILE_SCHEME:
        path = directory / rest
        if not path.exists():
            return None
        signer = _load(path, secret())
        if signer.public_key.keyval != public.keyval:
            raise UsageError("the private key is not the one that was asked for", where=str(path))
        return CryptoSigner(signer._private_key, public if isinstance(public, SSlibKey) else None)  # noqa: SLF001 - it has no public door
    if scheme == tokens.SCHEME and not tokens.is_here(uri, pkcs11_module):
        return None
    try:
        return Signer.from_priv_key_uri(uri, public, lambda _: secret())
    except (ValueError, OSError) as error:
        raise UsageError(f"the key cannot be opened: {error}", where=uri) from error


def generate(directory: Path, name: str, owned_by: str, passphrase: str) -> KeyEntry:
    """Make an Ed25519 key in a file; one that a killed run left is taken up.

    Raises:
        UsageError: the passphrase is too short, or not that of the file that is there.
    """
    if len(passphrase) < _MIN_PASSPHRASE:
        raise UsageError(f"a passphrase has {_MIN_PASSPHRASE} characters or more", where=f"key {name}")
    path = directory / KEYS / f"{name}.pem"
    if path.exists():
        signer = _load(path, passphrase)
    else:
        private = Ed25519PrivateKey.generate()
        protected = BestAvailableEncryption(passphrase.encode())
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic.write_bytes(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protected), mode=_KEY_MODE)
        signer = CryptoSigner(private)
    return _entry(f"{FILE_SCHEME}:{KEYS}/{name}.pem", owned_by, signer.public_key)


def generate_online(directory: Path, name: str, passphrase: str, passphrase_file: str) -> KeyEntry:
    """Make a key that signs unattended; ``passphrase_file`` (relative to ``directory``) is noted beside it."""
    made = generate(directory, name, "controller", passphrase)
    return msgspec.structs.replace(made, passphrase_file=passphrase_file)


def from_token(uri: str, owned_by: str, secret: Callable[[], str], *, pkcs11_module: str | None) -> KeyEntry:
    """The entry of a key that a PKCS#11 token holds: ``hsm:ID?label=TOKEN``, an EC key on P-256 or P-384.

    Raises:
        UsageError: no such token or key.
        MachineError: the token's library is missing.
    """
    if tokens.name_module(pkcs11_module) is None:
        raise MachineError(
            "the token's PKCS#11 library is not here",
            where=pkcs11_module or "pkcs11_module in authority.yml is not set",
            next_step="install it (for SoftHSM2: apt-get install softhsm2), and name it as pkcs11_module",
        )
    number = urlparse(uri).path
    try:
        found, key = HSMSigner.import_(int(number) if number else None, tokens.label(uri), lambda _: secret())
    except ValueError as error:
        raise UsageError(f"the token does not give the key: {error}", where=uri) from error
    return _entry(found, owned_by, key)


def add_signature(metadata: Metadata[Any], signer: Signer, name: str) -> None:
    """Sign; what is signed already by others stays.

    Raises:
        UsageError: the token or the service behind the key refuses.
    """
    try:
        metadata.sign(signer, append=True)
    except UnsignedMetadataError as error:
        cause = error.__cause__
        why = f"{type(cause).__name__} {cause}".strip() if cause is not None else str(error)
        raise UsageError(
            f"the key {name} cannot sign, its token refuses: {why}",
            next_step="check its PIN (tokens lock themselves after some wrong ones) and that it is plugged in",
        ) from error


def unknown_key(name: str, settings: Settings) -> UsageError:
    """No key is called that."""
    known = ", ".join(settings.keys) or "none"
    return UsageError(
        f"there is no key {name!r}",
        where=f"authority.yml names: {known}",
        next_step=f"hedgerow registry add-key {name}",
    )


def _entry(uri: str, owned_by: str, key: Key) -> KeyEntry:
    public = {"keytype": key.keytype, "scheme": key.scheme, "keyval": dict(key.keyval)}
    return KeyEntry(uri, owned_by, key.keyid, public)


def _load(path: Path, passphrase: str) -> CryptoSigner:
    if path.stat().st_mode & 0o077:
        raise UsageError(
            "a signing key can be read by others",
            where=str(path),
            next_step=f"chmod 600 {path}, and consider it stolen: hedgerow registry revoke",
        )
    try:
        return CryptoSigner(serialization.load_pem_private_key(path.read_bytes(), passphrase.encode()))
    except (ValueError, TypeError) as error:
        raise UsageError("the passphrase is wrong, or the key is damaged", where=str(path)) from error
