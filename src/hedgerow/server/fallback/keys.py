"""The device's own secret for what it keeps of answers and tells of prompts. Made here, at first use; never leaves.

It lies beside what it encrypts, so it protects copies of the cache alone, and lets all of them be forgotten at once:
delete it. Against whoever has the card, the disk itself is to be encrypted.
"""

from __future__ import annotations

import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hedgerow import atomic
from hedgerow.errors import MachineError

FILE = "key"
_BYTES = 32


@dataclass(frozen=True)
class Keys:
    """One key for each use, derived from the one in the file (RFC 5869)."""

    seal: bytes
    lookup: bytes
    audit: bytes

    def lookup_of(self, asked: bytes) -> bytes:
        """What a request's answer is kept under: tells nothing of the request to who has no key."""
        return _mac(self.lookup, asked)

    def fingerprint(self, prompt: bytes) -> str:
        """The hash of a prompt in audit lines. Keyed: a plain one tells a short prompt to who tries."""
        return _mac(self.audit, prompt).hex()


def load(folder: Path) -> Keys:
    """Read the key of ``folder``, and make it where there is none.

    Raises:
        MachineError: it is damaged, others can read it, or the folder cannot be written.
    """
    path = folder / FILE
    try:
        if not path.exists():
            atomic.write_bytes(path, secrets.token_bytes(_BYTES), mode=0o600)
        mode = stat.S_IMODE(path.stat().st_mode)
        key = path.read_bytes()
    except OSError as error:
        raise MachineError(f"the fallback's key cannot be read or made: {error.strerror}", where=str(path)) from error
    if mode & 0o077:
        raise MachineError(
            f"others can read the fallback's key (mode {mode:04o})", where=str(path), next_step=f"chmod 600 {path}"
        )
    if len(key) != _BYTES:
        raise MachineError(
            f"the fallback's key has {len(key)} bytes, not {_BYTES}",
            where=str(path),
            next_step=f"remove it; a new one is made, and kept answers are forgotten: rm {path}",
        )
    return Keys(*(_derived(key, use) for use in (b"seal", b"lookup", b"audit")))


def _derived(key: bytes, use: bytes) -> bytes:
    return HKDF(hashes.SHA256(), _BYTES, salt=None, info=b"hedgerow fallback " + use).derive(key)


def _mac(key: bytes, data: bytes) -> bytes:
    mac = hmac.HMAC(key, hashes.SHA256())
    mac.update(data)
    return mac.finalize()
