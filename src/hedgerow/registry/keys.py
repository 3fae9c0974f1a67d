"""Who signs: one key a role in the embedded default, any signer of securesystemslib behind the same file.

``signers.json`` maps each role to its threshold and keys; a key is its public part and the URI that
``securesystemslib.signer.Signer`` opens (``file2:root.pem`` here; ``hsm:``, ``awskms:`` … in production). Private keys
in files are PEM (PKCS#8), mode 0600, beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from securesystemslib.signer import CryptoSigner, Key, Signer

from hedgerow import atomic
from hedgerow.errors import UsageError

ROLES: Final = ("root", "targets", "snapshot", "timestamp")
FILE_NAME: Final = "signers.json"
_FILE_SCHEME = "file2"
_KEY_MODE = 0o600


@dataclass(frozen=True)
class RoleKeys:
    """The keys of one role: ``threshold`` of them must sign. ``uris`` and ``public_keys`` belong together."""

    role: str
    folder: Path
    threshold: int
    uris: tuple[str, ...]
    public_keys: tuple[Key, ...]

    def signers(self) -> tuple[Signer, ...]:
        """Open the private keys that are here; a key may be elsewhere (root's should be) until it is needed.

        Raises:
            UsageError: fewer than the threshold are here, or one is not what ``signers.json`` says.
        """
        opened = (self._open(uri, public) for uri, public in zip(self.uris, self.public_keys, strict=True))
        found = tuple(signer for signer in opened if signer is not None)
        if len(found) < self.threshold:
            raise UsageError(
                f"{self.role} needs {self.threshold} signature(s), and {len(found)} of its private keys are here",
                where=str(self.folder),
                next_step=f"bring back what {FILE_NAME} names for {self.role}, then run it again",
            )
        return found

    def _open(self, uri: str, public: Key) -> Signer | None:
        path = _path(self.folder, uri)
        if path is None:
            return Signer.from_priv_key_uri(uri, public)
        if not path.exists():
            return None
        signer = _open_file(path)
        if signer.public_key.keyid != public.keyid:
            raise UsageError(f"the private key is not the one that {FILE_NAME} names", where=str(path))
        return signer


def create(folder: Path) -> None:
    """Make an Ed25519 key for each role and ``signers.json``; what is there already is kept."""
    if (folder / FILE_NAME).exists():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    described: dict[str, Any] = {}
    for role in ROLES:
        path = folder / f"{role}.pem"
        signer = _open_file(path) if path.exists() else CryptoSigner.generate_ed25519()
        if not path.exists():
            atomic.write_bytes(path, _pem(signer), mode=_KEY_MODE)
        key = {"keyid": signer.public_key.keyid, "key": signer.public_key.to_dict()}
        described[role] = {"threshold": 1, "keys": [{"uri": f"{_FILE_SCHEME}:{path.name}", **key}]}
    # Last: without this file the keys belong to nothing, and the next call finds them again.
    atomic.write_text(folder / FILE_NAME, json.dumps(described, indent=2) + "\n", mode=_KEY_MODE)


def load(folder: Path) -> Mapping[str, RoleKeys]:
    """Read who signs for each role; no private key is opened yet.

    Raises:
        UsageError: there are none, or a private key is readable for others.
    """
    path = folder / FILE_NAME
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        return {role: _load_role(folder, role, described[role]) for role in ROLES}
    except FileNotFoundError as error:
        raise UsageError(
            "the registry has no signing keys", where=str(error.filename or path), next_step="hedgerow registry init"
        ) from error
    except (ValueError, KeyError) as error:
        raise UsageError(f"the signing keys cannot be read: {error}", where=str(path)) from error


def _load_role(folder: Path, role: str, described: Mapping[str, Any]) -> RoleKeys:
    uris = tuple(str(entry["uri"]) for entry in described["keys"])
    for path in filter(None, (_path(folder, uri) for uri in uris)):
        if path.exists() and path.stat().st_mode & 0o077:
            raise UsageError(
                "a signing key can be read by others",
                where=str(path),
                next_step=f"chmod 600 {path}, and consider it stolen",
            )
    public_keys = tuple(Key.from_dict(entry["keyid"], dict(entry["key"])) for entry in described["keys"])
    return RoleKeys(role, folder, int(described["threshold"]), uris, public_keys)


def _path(folder: Path, uri: str) -> Path | None:
    """Where a private key in a file is; None for one that is no file of ours."""
    scheme, _, rest = uri.partition(":")
    return folder / rest if scheme == _FILE_SCHEME else None


def _open_file(path: Path) -> CryptoSigner:
    private = serialization.load_pem_private_key(path.read_bytes(), None)
    return CryptoSigner(private)


def _pem(signer: CryptoSigner) -> bytes:
    return signer.private_bytes
