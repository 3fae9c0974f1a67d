"""The issuance log: one line a certificate, on disk before the certificate leaves the CA.

A certificate that is not in the log was never handed out. The lines are chained by their hashes
(``hedgerow.chainlog``); those of a fleet that is older than the chain stand before it. One log holds what every CA
issued whose key is on this machine; a gateway that issues has its own, and the controller a copy of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from hedgerow.chainlog import ChainLog
from hedgerow.identity import ledger

FILE = "issued.jsonl"
ISSUING_CA = "issuing-ca"  # in place of a profile, where the certificate is a CA's


class Issued(msgspec.Struct, frozen=True):
    """One certificate. Times are RFC 3339 in UTC; fingerprints are SHA-256 in hex.

    ``issuer_key`` is the key identifier (hex) of the CA that signed; empty in lines from before there could be two.
    ``key_id`` is that of the certified key, for issuing CAs alone; ``by`` says who signed, where a person did.
    """

    time: str
    serial_number: str
    profile: str
    name: str
    dns: list[str]
    uris: list[str]
    not_before: str
    not_after: str
    certificate_sha256: str
    key_sha256: str
    reason: str
    issuer_key: str = ""
    key_id: str = ""
    by: str = ""


def chain(path: Path) -> ChainLog[Issued]:
    """The log at ``path`` as a chain: to append to and to verify."""
    return ChainLog(path, Issued, name="issuance log", adopt=True)


def append(path: Path, entries: Sequence[Issued]) -> None:
    """Write ``entries`` durably, with one ``fsync`` for all.

    Raises:
        MachineError: the disk is full or fails; none of these certificates may leave.
        ChainError: the log was cut off or changed at its end.
    """
    chain(path).append_all(entries)


def read(path: Path) -> Iterator[Issued]:
    """Yield the log from its beginning; nothing if there is none."""
    return ledger.read(path, Issued)


def logs(folder: Path) -> list[Path]:
    """Every issuance log below the CA's ``folder``: its own, and the copies of those that gateways keep."""
    copies = (path for pattern in ("issuing", "generations/*/issuing") for path in folder.glob(f"{pattern}/*/{FILE}"))
    # ``issuing/<name>`` is a link to the CA in use; through it each log would count twice.
    return [folder / FILE, *sorted(path for path in copies if not path.parent.is_symlink())]


def read_fleet(folder: Path) -> Iterator[Issued]:
    """Yield what every CA of the fleet issued, log by log; ``folder`` is the fleet's ``ca``."""
    return _each(logs(folder))


def _each(paths: Iterable[Path]) -> Iterator[Issued]:
    for path in paths:
        yield from read(path)
