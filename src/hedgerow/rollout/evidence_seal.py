"""Archive, signature and key of the evidence: bytes in, bytes out; what is in them is ``evidence``'s."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, Key

from hedgerow import atomic, paths
from hedgerow.errors import RefusedError, UsageError

SIGNED = "MANIFEST.json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
KEY, PUBLIC = "evidence.pem", "evidence.pub.json"
MOST_BYTES = 256 << 20
"""An entry that claims more is not read."""


class Problem(msgspec.Struct, frozen=True):
    """An entry and what is wrong with it."""

    where: str
    what: str


def signed(statement: dict[str, Any], by: CryptoSigner) -> bytes:
    """``statement`` in a DSSE envelope."""
    envelope = Envelope(encoded(statement), PAYLOAD_TYPE, {})
    envelope.sign(by)
    return encoded(envelope.to_dict())


def opened(envelope: bytes | None, key: Key, *, where: str) -> dict[str, Any]:
    """The statement of an envelope that ``key`` signed.

    Raises:
        UsageError: There is none.
        RefusedError: ``key`` did not sign it.
    """
    if envelope is None:
        raise UsageError(f"the archive has no {SIGNED}", where=where)
    try:
        found = Envelope.from_dict(json.loads(envelope))
        found.verify([key], 1)
        if found.payload_type == PAYLOAD_TYPE:
            statement: dict[str, Any] = json.loads(found.payload)
            return statement
        why = f"payload type {found.payload_type}"
    except (VerificationError, ValueError, TypeError, KeyError) as error:
        why = type(error).__name__
    raise RefusedError(
        f"rule signed-evidence: the manifest of this archive is not signed by key {key.keyid[:16]} ({why})",
        where=f"{where}, {SIGNED}",
        next_step=f"compare keys: a fleet's is var/fleets/<fleet>/signing/{PUBLIC}",
    )


# -- bytes ------------------------------------------------------------------------


def encoded(value: Any) -> bytes:
    """``value`` as JSON whose bytes depend on nothing else."""
    return json.dumps(value, indent=1, sort_keys=True, default=str).encode() + b"\n"


def sha256(data: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def tar(entries: Mapping[str, bytes]) -> bytes:
    """An archive without times and owners, entries sorted."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(entries):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(entries[name]), 0o644
            archive.addfile(info, io.BytesIO(entries[name]))
    return out.getvalue()


def read(path: Path) -> tuple[dict[str, bytes], list[Problem]]:
    """Entries by name, and what no archive of ours has; nothing is unpacked.

    Raises:
        UsageError: It is no archive.
    """
    entries: dict[str, bytes] = {}
    problems: list[Problem] = []
    try:
        with tarfile.open(path, mode="r:") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                if file is None:
                    problems.append(Problem(member.name, "is no plain file"))
                elif member.name in entries:
                    problems.append(Problem(member.name, "stands there twice"))
                elif member.size > MOST_BYTES:
                    problems.append(Problem(member.name, f"is larger than {MOST_BYTES} bytes"))
                else:
                    entries[member.name] = file.read()
    except (OSError, tarfile.TarError) as error:
        raise UsageError(f"this is no archive of evidence: {error}", where=str(path)) from error
    return entries, problems


# -- keys -------------------------------------------------------------------------


def _keys(fleet: str) -> Path:
    return paths.fleet_dir(fleet) / "signing"


def signer(fleet: str) -> CryptoSigner:
    """The fleet's own evidence key (Ed25519, PKCS#8, mode 0600), made on first use beside the registry's."""
    folder = _keys(fleet)
    path = folder / KEY
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic.write_bytes(path, CryptoSigner.generate_ed25519().private_bytes, mode=0o600)
    if path.stat().st_mode & 0o077:
        raise UsageError(
            "the evidence key can be read by others", where=str(path), next_step=f"chmod 600 {path}, or make a new one"
        )
    found = CryptoSigner(serialization.load_pem_private_key(path.read_bytes(), None))
    public = {"keyid": found.public_key.keyid, "key": found.public_key.to_dict()}
    if not (folder / PUBLIC).exists():
        atomic.write_bytes(folder / PUBLIC, encoded(public))
    return found


def public_key(fleet: str) -> Key:
    """The key that ``verify`` needs, from the controller's own folder.

    Raises:
        UsageError: No evidence was collected here yet.
    """
    path = _keys(fleet) / PUBLIC
    try:
        return read_key(path)
    except FileNotFoundError as error:
        raise UsageError(
            "this fleet has no evidence key here",
            where=str(path),
            next_step="--key FILE takes the public key of whoever collected it",
        ) from error


def read_key(path: Path) -> Key:
    """A public key as ``signing/evidence.pub.json`` holds it.

    Raises:
        UsageError: It is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Key.from_dict(document["keyid"], document["key"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"this is no public key: {error}", where=str(path)) from error
