"""Who may hold no certificate any more: an append-only ledger beside the issuance log.

Invariants:

- A line is never changed or removed. What counts for a holder is its last line; a certificate that was revoked stays
  revoked, whoever is admitted again.
- A holder is a board, by its serial, or a client, by its name.

Devices learn of a revocation by a revocation list; until there is one, a revoked certificate ends with its life
(30 days as a rule), and what the ledger stops at once is the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from hedgerow.identity import ledger

FILE = "revocations.jsonl"
Kind = Literal["board", "client"]


class _Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """``time`` is RFC 3339 in UTC; ``by`` says who, where."""

    time: str
    kind: Kind
    holder: str
    reason: str
    by: str


class Revoked(_Line, frozen=True, kw_only=True, tag="revoked"):
    """The holder gets no certificate any more; ``certificates`` are the serial numbers (hex) that end with it."""

    certificates: list[str]


class Readmitted(_Line, frozen=True, kw_only=True, tag="readmitted"):
    """The holder may have a certificate again, for another key."""


Line = Revoked | Readmitted


def read(folder: Path) -> list[Line]:
    """The ledger of the CA in ``folder``, oldest first."""
    return list(ledger.read(folder / FILE, Line))


def append(folder: Path, line: Line) -> None:
    ledger.append(folder / FILE, line)


def standing(lines: Iterable[Line], kind: Kind, holder: str) -> Revoked | None:
    """Why ``holder`` may have no certificate; None if it may."""
    last = None
    for line in lines:
        if (line.kind, line.holder) == (kind, holder):
            last = line
    return last if isinstance(last, Revoked) else None


def certificates(lines: Iterable[Line]) -> Iterator[str]:
    """Serial numbers of every certificate that was ever revoked."""
    for line in lines:
        if isinstance(line, Revoked):
            yield from line.certificates
