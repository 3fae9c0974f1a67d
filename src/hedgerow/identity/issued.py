"""The issuance log: one JSON line a certificate, appended and on disk before the certificate leaves the CA.

A certificate that is not in the log was never handed out. A torn last line (power
cut) is completed with a line end before the next one is written, and read past.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec


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
    """Add ``entry`` durably; safe among parallel Ansible workers."""
    line = json.dumps(msgspec.to_builtins(entry), sort_keys=True).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
            line = b"\n" + line
        file.write(line)
        os.fsync(file.fileno())


def read(path: Path) -> Iterator[Issued]:
    """Yield the log from its beginning; nothing if there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            yield msgspec.json.decode(line, type=Issued)
        except msgspec.MsgspecError:
            continue
