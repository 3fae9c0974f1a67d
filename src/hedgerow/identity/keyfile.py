"""Private keys in files on the controller: the CA's (encrypted if a passphrase is named) and its clients'."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hedgerow.errors import RefusedError, UsageError
from hedgerow.identity import certificates

PASSPHRASE_FILE = "HEDGEROW_CA_PASSPHRASE_FILE"  # noqa: S105 - the name of a variable that names a file


def passphrase() -> bytes | None:
    """The CA's passphrase from the file that the environment names; None if it names none."""
    name = os.environ.get(PASSPHRASE_FILE)
    if not name:
        return None
    try:
        secret = Path(name).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise UsageError(
            f"the passphrase file cannot be read: {error.strerror}", where=name, next_step=f"correct {PASSPHRASE_FILE}"
        ) from error
    if not secret:
        raise UsageError("the passphrase file is empty", where=name, next_step="write one line into it, mode 0600")
    return secret


def load(path: Path, secret: Callable[[], bytes | None] = passphrase) -> ec.EllipticCurvePrivateKey:
    """Read the CA's key; ``secret`` is asked if it is encrypted.

    Raises:
        UsageError: it is missing or damaged, or the passphrase is missing or wrong.
        RefusedError: others can read it.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the CA's key cannot be read: {error.strerror}", where=str(path), next_step="restore it from your backup"
        ) from error
    if mode & 0o077 and not _is_credential(path):
        raise RefusedError(
            f"others can read the CA's key (mode {mode:04o})", where=str(path), next_step=f"chmod 600 {path}"
        )
    opener = secret() if b"ENCRYPTED" in data else None
    try:
        key = serialization.load_pem_private_key(data, opener)
    except TypeError as error:
        raise UsageError(
            "the CA's key is encrypted and no passphrase was given",
            where=str(path),
            next_step=f"export {PASSPHRASE_FILE}=/path/of/a/file/with/the/passphrase",
        ) from error
    except ValueError as error:
        raise UsageError(
            "the CA's key does not open: wrong passphrase or damaged file",
            where=str(path),
            next_step=f"correct the passphrase file ({PASSPHRASE_FILE} names it, or an option), or restore the key",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError("the CA's key is not an EC key", where=str(path), next_step="restore it from your backup")
    return key


def encode(key: ec.EllipticCurvePrivateKey, secret: bytes | None) -> bytes:
    """PKCS #8 in PEM, encrypted if there is a ``secret``."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if secret is not None:
        encryption = serialization.BestAvailableEncryption(secret)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def public_der(key_file: Path) -> bytes | None:
    """SubjectPublicKeyInfo of a client's key; None where there is no usable one."""
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return certificates.public_der(key.public_key()) if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _is_credential(path: Path) -> bool:
    """Whether systemd gave the file to this very service (``LoadCredential=``).

    It lets the service's user read by an access list, whose mask stat(2) shows as the group's rights (0440).
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return folder is not None and path.parent.resolve() == Path(folder).resolve()
