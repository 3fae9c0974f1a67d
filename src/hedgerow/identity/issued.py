"""The issuance log: one line a certificate, on disk before the certificate leaves the CA.

A certificate that is not in the log was never handed out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from hedgerow.identity import ledger


class Issued(msgspec.Struct, frozen=True):
    """One certificate. Times are RFC 3339 in UTC; fingerprints are SHA-256 in hex."""

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


def append(path: Path, entry: Issued) -> None:
    ledger.append(path, entry)


def read(path: Path) -> Iterator[Issued]:
    """Yield the log from its beginning; nothing if there is none."""
    return ledger.read(path, Issued)
