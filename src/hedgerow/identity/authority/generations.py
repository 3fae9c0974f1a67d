"""Which of the fleet's roots is the active one, and where each has its files.

A generation is a root (or a single-tier CA) with what hangs below it. The first lives in ``ca/`` itself, later ones in
``ca/generations/<number>/``. ``ca/generations.json`` exists once there was a second one; it is written in one step, and
everything else follows from it:

- ``ca/ca.crt``, what peers trust: the active generation's certificate first, then those of next and old ones.
- Whose key signs: the active generation's.

States: ``next`` (trusted, signs nothing yet) → ``active`` → ``old`` (trusted until its certificates have ended) →
``retired``. A ``next`` that is given up is retired too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
from cryptography import x509
from msgspec import Struct

from hedgerow import atomic
from hedgerow.errors import UsageError
from hedgerow.identity import certificates
from hedgerow.identity.authority import build
from hedgerow.identity.authority.leaf import read_first

FILE = "generations.json"
FOLDER = "generations"
CERTIFICATE = "ca.crt"
State = Literal["next", "active", "old", "retired"]
# The order in the bundle: who reads one certificate alone reads the active one's.
_TRUSTED: tuple[State, ...] = ("active", "next", "old")


class Generation(Struct, frozen=True, forbid_unknown_fields=True):
    """``since`` says when it came into its state (RFC 3339), empty where no rotation was begun yet."""

    number: int
    state: State
    since: str = ""


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    schema: Literal[1]
    generations: list[Generation]


def read(folder: Path) -> list[Generation]:
    """Every generation, oldest first; ``folder`` is the fleet's ``ca``.

    Raises:
        UsageError: the file cannot be read.
    """
    path = folder / FILE
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_File).generations
    except FileNotFoundError:
        return [Generation(1, "active")]
    except msgspec.DecodeError as error:
        raise UsageError(
            f"the state of the CA's generations cannot be read: {error}",
            where=str(path),
            next_step="restore it from your backup",
        ) from error
    if sum(each.state == "active" for each in found) != 1:
        raise UsageError(
            "not exactly one generation of the CA is active", where=str(path), next_step="restore it from your backup"
        )
    return found


def write(folder: Path, found: list[Generation]) -> None:
    """Write the state in one step; ``sync`` comes next."""
    data = msgspec.json.format(msgspec.json.encode(_File(1, found)), indent=2)
    atomic.write_bytes(folder / FILE, data + b"\n")


def active(folder: Path) -> Generation:
    """The generation whose key signs."""
    return next(each for each in read(folder) if each.state == "active")


def home(folder: Path, number: int) -> Path:
    """Where a generation's key and issuing CAs are."""
    return folder if number == 1 else folder / FOLDER / str(number)


def certificate_path(folder: Path, number: int) -> Path:
    """The generation's own certificate alone. The first one's is ``ca.crt`` until a rotation makes that a bundle."""
    kept = folder / FOLDER / str(number) / CERTIFICATE
    return folder / CERTIFICATE if number == 1 and not kept.exists() else kept


def certificate(folder: Path, number: int) -> x509.Certificate:
    """The generation's own certificate.

    Raises:
        UsageError: there is none.
    """
    path = certificate_path(folder, number)
    found = read_first(path)
    if found is None:
        raise UsageError(
            "the fleet has no CA yet" if not path.exists() else "the CA's certificate cannot be read",
            where=str(path),
            next_step="hedgerow ca init -i INVENTORY" if number == 1 else "restore it from your backup",
        )
    return found


def two_tier(folder: Path, number: int) -> bool:
    """Whether the generation is a root with issuing CAs below it."""
    return build.is_root(certificate(folder, number))


def depth(folder: Path) -> int:
    """Authorities above a holder's certificate, the root included, at the most: 2 where a generation has two tiers.

    A fleet that has no CA yet has its first one by default.
    """
    if not (folder / CERTIFICATE).exists():
        return 1
    return max(2 if two_tier(folder, each.number) else 1 for each in trusted(folder))


def keep_first(folder: Path) -> None:
    """Copy the first generation's certificate to where it stays alone, before ``ca.crt`` becomes a bundle."""
    kept = folder / FOLDER / "1" / CERTIFICATE
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic.write_text(kept, certificates.pem(certificate(folder, 1)))


def trusted(folder: Path) -> list[Generation]:
    """The generations that peers trust, the active one first."""
    found = [each for each in read(folder) if each.state in _TRUSTED]
    return sorted(found, key=lambda each: (_TRUSTED.index(each.state), each.number))


def sync(folder: Path) -> bool:
    """Make ``ca.crt`` what the state says; whether it changed. The end of every step, and of what a crash cut off."""
    if not (folder / FILE).exists():
        return False
    bundle = "".join(certificates.pem(certificate(folder, each.number)) for each in trusted(folder))
    path = folder / CERTIFICATE
    if path.exists() and path.read_text(encoding="ascii") == bundle:
        return False
    atomic.write_text(path, bundle)
    return True
