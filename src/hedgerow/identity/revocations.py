"""Who may hold no certificate any more: an append-only ledger beside the issuance log.

Invariants:

- A line is never changed or removed. What counts for a holder is its last line; a certificate that was revoked stays
  revoked, whoever is admitted again.
- A holder is a board, by its serial, a client, by its name, or an issuing CA (``authority``), by its key's identifier.

Peers learn of a revocation by a revocation list (``authority.lists``). The ledger itself stops the next certificate at
once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from hedgerow.chainlog import ChainLog
from hedgerow.identity import ledger

FILE = "revocations.jsonl"
Kind = Literal["board", "client", "authority"]


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


def chain(folder: Path) -> ChainLog[Line]:
    """The ledger of the CA in ``folder`` as a chain: to append to and to verify."""
    return ChainLog(folder / FILE, Line, name="ledger of revocations", adopt=True)


def append(folder: Path, line: Line) -> None:
    """Write ``line`` durably.

    Raises:
        MachineError: the disk is full or fails; nobody was revoked or admitted.
        ChainError: the ledger was cut off or changed at its end.
    """
    chain(folder).append(line)


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
