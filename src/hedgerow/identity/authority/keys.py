"""Where a CA's private key is, and opening it.

Beside a CA's certificate stands ``ca.key`` (PKCS#8, 0600), or ``key.yml``, which says where else it is:

- ``pem:PATH``: a file, absolute or relative to ``key.yml``; on a removable medium for a root.
- ``hsm:ID?label=TOKEN``: a PKCS#11 token (``hedgerow.tokens``); the PIN is asked for as a passphrase is.

With neither, the key is elsewhere (a gateway's, made there): this CA signs nothing here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import msgspec
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Meta, Struct

from hedgerow import atomic, configfile, tokens
from hedgerow.errors import RefusedError, UsageError
from hedgerow.identity import certificates, keyfile
from hedgerow.identity.authority.token_key import TokenKey
from hedgerow.passphrases import Passphrases

KEY: Final = "ca.key"
REFERENCE: Final = "key.yml"
_FILE = "pem:"
# PKCS#8 stretches a passphrase little (PBKDF2); a short one would be found by trying.
_MIN_PASSPHRASE = 12

Text = Annotated[str, Meta(min_length=1, max_length=1024)]


class KeyReference(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``key.yml``. ``passphrase_file`` is for a key that signs unattended."""

    uri: Text
    pkcs11_module: Text | None = None
    passphrase_file: Text | None = None


def from_environment() -> Passphrases:
    """The passphrase of CAs that sign unattended: the file that ``HEDGEROW_CA_PASSPHRASE_FILE`` names."""
    name = os.environ.get(keyfile.PASSPHRASE_FILE)
    return Passphrases({None: Path(name)} if name else {})


def reference(folder: Path) -> KeyReference | None:
    """Where the key of the CA in ``folder`` is; None where it is elsewhere.

    Raises:
        UsageError: ``key.yml`` cannot be read.
    """
    path = folder / REFERENCE
    try:
        return configfile.decode(path.read_bytes(), KeyReference)
    except FileNotFoundError:
        return KeyReference(f"{_FILE}{KEY}") if (folder / KEY).exists() else None
    except msgspec.DecodeError as error:
        raise UsageError(f"it cannot be read where the CA's key is: {error}", where=str(path)) from error


def is_here(folder: Path) -> bool:
    """Whether the key can be reached now: its file is there, or its token is plugged in."""
    found = reference(folder)
    if found is None:
        return False
    if found.uri.startswith(_FILE):
        return _file(folder, found).exists()
    return tokens.is_here(found.uri, found.pkcs11_module)


def is_encrypted(folder: Path) -> bool:
    """Whether the CA's key is a file under a passphrase; a next one is to be kept no worse."""
    found = reference(folder)
    path = None if found is None or not found.uri.startswith(_FILE) else _file(folder, found)
    return path is not None and path.exists() and b"ENCRYPTED" in path.read_bytes()


def load(folder: Path, name: str, passphrases: Passphrases) -> ec.EllipticCurvePrivateKey:
    """Open the key of the CA in ``folder``; ``name`` is what passphrases and errors call it.

    Raises:
        UsageError: it is elsewhere, not plugged in, damaged, or the passphrase is wrong.
        RefusedError: others can read it.
    """
    found = reference(folder)
    if found is None:
        raise UsageError(
            f"the key of the CA {name} is not on this machine",
            where=str(folder),
            next_step="it was made elsewhere (a gateway), where it signs; see: hedgerow ca issuing list",
        )
    hint = None if found.passphrase_file is None else folder / found.passphrase_file
    if not found.uri.startswith(_FILE):
        return TokenKey(found.uri, lambda: passphrases.of(name, hint), module=found.pkcs11_module)
    path = _file(folder, found)
    if not path.exists():
        raise UsageError(
            f"the key of the CA {name} is not here now",
            where=str(path),
            next_step="put its medium in and mount it, then run the command again; "
            f"if it moved: edit uri in {folder / REFERENCE}",
        )
    return keyfile.load(path, lambda: passphrases.of(name, hint).encode())


def make(
    folder: Path, name: str, passphrases: Passphrases | None, *, uri: str | None = None, module: str | None = None
) -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key for the CA in ``folder``, or take the one that a token has, and write down where it is.

    ``uri`` None is ``ca.key`` in the folder; ``passphrases`` None leaves the file unencrypted. A key that an
    interrupted run left is taken up.

    Raises:
        UsageError: the passphrase is too short or wrong, or the token does not give the key.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = KeyReference(uri or f"{_FILE}{KEY}", module)
    if not found.uri.startswith((_FILE, f"{tokens.SCHEME}:")):
        raise UsageError(
            f"{found.uri!r} says nowhere where a key could be",
            where="--key",
            next_step="pem:PATH for a file, hsm:NUMBER?label=TOKEN for a PKCS#11 token",
        )
    if not found.uri.startswith(_FILE):
        if passphrases is None:
            raise UsageError("a token's PIN is needed", where=found.uri, next_step=f"--passphrase-file {name}=FILE")
        key: ec.EllipticCurvePrivateKey = TokenKey(found.uri, lambda: passphrases.of(name), module=module)
    else:
        key = _make_file(_file(folder, found), name, passphrases)
    if uri is not None:
        plain = msgspec.to_builtins(found)
        atomic.write_text(folder / REFERENCE, yaml.safe_dump(plain, sort_keys=False), mode=0o600)
    return key


def require_pair(key: ec.EllipticCurvePrivateKey, public: bytes, where: Path) -> None:
    """Raise RefusedError unless ``key`` is the private part of ``public`` (SubjectPublicKeyInfo, DER)."""
    if certificates.public_der(key.public_key()) != public:
        raise RefusedError(
            "the CA's key and certificate do not belong together",
            where=str(where),
            next_step="restore both files from the same backup",
        )


def _make_file(path: Path, name: str, passphrases: Passphrases | None) -> ec.EllipticCurvePrivateKey:
    secret = None if passphrases is None else passphrases.of(name)
    if secret is not None and len(secret) < _MIN_PASSPHRASE:
        raise UsageError(
            f"a passphrase has {_MIN_PASSPHRASE} characters or more",
            where=f"key {name}",
            next_step="choose a longer one: openssl rand -base64 24",
        )
    encoded = None if secret is None else secret.encode()
    if path.exists():
        return keyfile.load(path, lambda: encoded)
    if not path.parent.is_dir():
        raise UsageError(
            "the folder for the CA's key is not there",
            where=str(path.parent),
            next_step="mount the medium, or name another place: --key",
        )
    key = certificates.new_key()
    atomic.write_bytes(path, keyfile.encode(key, encoded), mode=0o600)
    return key


def _file(folder: Path, found: KeyReference) -> Path:
    return folder / found.uri.removeprefix(_FILE)
