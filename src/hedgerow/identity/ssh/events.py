"""What the SSH authority did: one line each, hash-chained, on disk before a certificate leaves.

A certificate that is not in the log was never handed out. Times are RFC 3339 in UTC. Serial numbers are decimal text,
since JSON's numbers end at 2^53 in many readers. ``by`` is who typed it, where; ``who`` is whom the certificate is for.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Literal

import msgspec

from hedgerow.chainlog import ChainLog

FILE = "issued.jsonl"
CaKind = Literal["user", "host"]
Step = Literal["init", "begin", "switch", "finish"]


class _Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    time: str
    by: str


class Signed(_Line, frozen=True, kw_only=True, tag="signed"):
    """A certificate. ``ca`` names the key that signed it, ``key`` is the fingerprint of the key that it is for.

    ``who`` is an operator's name or a host's; ``role`` is empty for a host. ``proof`` is the SHA-256 of the operator's
    X.509 certificate, ``source`` the addresses that the certificate counts from.
    """

    kind: CaKind
    ca: str
    serial: str
    key_id: str
    who: str
    role: str
    principals: list[str]
    valid_after: str
    valid_before: str
    key: str
    source: list[str]
    proof: str
    reason: str


class Revoked(_Line, frozen=True, kw_only=True, tag="revoked"):
    """What counts no longer: ``serials`` by the name of the CA key that signed them, whole ``keys`` by fingerprint."""

    what: str
    serials: dict[str, list[str]]
    keys: list[str]
    reason: str


class Rotated(_Line, frozen=True, kw_only=True, tag="rotated"):
    """A key of the authority changed its state; see ``generations``."""

    kind: CaKind
    step: Step
    key: str
    fingerprint: str


class BreakGlass(_Line, frozen=True, kw_only=True, tag="break-glass"):
    """The key in the safe was made or retired."""

    step: Literal["made", "retired"]
    fingerprint: str
    reason: str


Line = Signed | Revoked | Rotated | BreakGlass


def log(folder: Path) -> ChainLog[Line]:
    """The log of the authority in ``folder``."""
    return ChainLog(folder / FILE, Line, name="SSH log")


def text(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(written: str) -> dt.datetime:
    return dt.datetime.fromisoformat(written)
