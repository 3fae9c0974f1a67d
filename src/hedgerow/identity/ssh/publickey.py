"""Public keys as lines of text: which kinds the fleet takes, and what a key is called. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct

from hedgerow.errors import RefusedError, UsageError

# RSA is left out: its certificates have three signature names that servers of different years disagree about.
KINDS = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)


def parse(text: str, *, where: str) -> str:
    """The key of a ``.pub`` file as ``<kind> <base64>``, without its comment.

    Raises:
        UsageError: it is no public key.
        RefusedError: it is of a kind that the fleet does not take.
    """
    words = text.split()
    if len(words) < 2 or len([line for line in text.splitlines() if line.strip()]) != 1:  # noqa: PLR2004 - kind, key
        raise UsageError("this is no public key", where=where, next_step="name the .pub file of one key")
    kind, encoded = words[:2]
    if kind not in KINDS:
        raise RefusedError(
            f"keys of kind {kind} are not taken",
            where=f"{where}; rule: {', '.join(KINDS)}",
            next_step="ssh-keygen -t ed25519, or -t ed25519-sk for a key that stays on a security key",
        )
    try:
        blob = base64.b64decode(encoded, validate=True)
        (length,) = struct.unpack_from(">I", blob)
    except (binascii.Error, struct.error) as error:
        raise UsageError("this is no public key", where=where, next_step="name the .pub file of one key") from error
    if blob[4 : 4 + length] != kind.encode():
        raise UsageError("the key's kind is not the one that its line says", where=where)
    return f"{kind} {encoded}"


def fingerprint(line: str) -> str:
    """``SHA256:…`` as ``ssh-keygen -lf`` prints it; ``line`` is one that ``parse`` returned, or longer."""
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
