"""Which key each board was seen with: how two boards with one identity, or one card in two boards, are found out.

A certificate that was issued proves nothing of who uses it; what a visit found in place does. So a line is written when
a board is seen with another key than the last time, and ``judge`` reads the history. Rules, all pure:

- **A key belongs to one board.** A second one with the same key has a copied card: it gets a key of its own.
- **A key that was replaced does not come back.** K1, then K2, then K1 again are two boards with one serial, or a card
  that was restored from before: refused until a person has looked (``Settled``).
- **One key at a time** (``strict``): another key while the last one's certificate has life left is refused, unless a
  new key was asked for. Without ``strict`` it passes, since a card that was written anew looks the same.
- **A board that has once vouched with its own key vouches for ever**: a request without that word is refused.

What was settled is forgotten: the history of a serial begins after its last ``Settled``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from hedgerow.chainlog import ChainLog

FILE = "holders.jsonl"


class _Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """``time`` is RFC 3339 in UTC; ``serial`` is the board's."""

    time: str
    serial: str
    host: str


class Seen(_Line, frozen=True, kw_only=True, tag="seen"):
    """A visit found the board with this key, and gave or left it a certificate until ``not_after``."""

    key_sha256: str
    not_after: str


class Anchored(_Line, frozen=True, kw_only=True, tag="anchored"):
    """The board vouched with its own key (PEM) for the first time."""

    public_key: str


class Conflict(_Line, frozen=True, kw_only=True, tag="conflict"):
    """A request was refused because of what was seen before."""

    code: str
    what: str


class Settled(_Line, frozen=True, kw_only=True, tag="settled"):
    """A person looked; what was seen of this serial before counts no more."""

    reason: str
    by: str


Line = Seen | Anchored | Conflict | Settled
Code = Literal["cloned", "other_key", "copied_card"]


@dataclass(frozen=True)
class Verdict:
    """Why a key is not simply taken. ``copied_card`` is healed by a key of its own, the others are refused."""

    code: Code
    what: str


def judge(
    lines: Iterable[Line],
    serial: str,
    key_sha256: str,
    now: dt.datetime,
    *,
    strict: bool = False,
    new_key: bool = False,
) -> Verdict | None:
    """What the history says of the board of ``serial`` being found with this key; None: nothing.

    ``new_key``: a person asked for the key to be replaced, so that another one is what is to be expected.
    """
    history = relevant(lines)
    owner = next((line for line in history if line.key_sha256 == key_sha256 and line.serial != serial), None)
    if owner is not None:
        return Verdict(
            "copied_card", f"its key is the one of {owner.host} ({owner.serial}): one card was copied to both"
        )
    own = [line for line in history if line.serial == serial]
    if not own or own[-1].key_sha256 == key_sha256:
        return None
    if any(line.key_sha256 == key_sha256 for line in own):
        return Verdict(
            "cloned",
            f"it shows a key that was replaced on {own[-1].time[:10]}: two boards with serial {serial}, or an old card",
        )
    if strict and not new_key and dt.datetime.fromisoformat(own[-1].not_after) > now:
        return Verdict(
            "other_key",
            f"it shows another key than on {own[-1].time[:10]}, whose certificate lives until {own[-1].not_after[:10]}",
        )
    return None


def relevant(lines: Iterable[Line]) -> list[Seen]:
    """What was seen of each board since its last settlement, oldest first."""
    found: list[Seen] = []
    for line in lines:
        if isinstance(line, Settled):
            found = [each for each in found if each.serial != line.serial]
        elif isinstance(line, Seen):
            found.append(line)
    return found


def anchor_of(lines: Iterable[Line], serial: str) -> str | None:
    """The board's own key (PEM), if it has vouched with one since its last settlement."""
    found = None
    for line in lines:
        if line.serial == serial and isinstance(line, Settled | Anchored):
            found = line.public_key if isinstance(line, Anchored) else None
    return found


class Holders:
    """The history of a fleet: ``holders.jsonl`` in the CA's folder, each line chained to the one before.

    Raises:
        ChainError: somebody changed it; nothing is taken from it then.
        MachineError: the disk does not take a line; what it announced must not be done.
    """

    def __init__(self, ca_folder: Path) -> None:
        self._log: ChainLog[Line] = ChainLog(ca_folder / FILE, Line, name="history of keys")

    def lines(self) -> list[Line]:
        return [entry.value for entry in self._log.entries()]

    def append(self, line: Line) -> None:
        self._log.append(line)

    def seen(self, host: str, serial: str, key_sha256: str, not_after: dt.datetime, now: dt.datetime) -> None:
        """Write down that the board has this key, unless that is what its last line says."""
        own = [line for line in relevant(self.lines()) if line.serial == serial]
        if own and own[-1].key_sha256 == key_sha256 and own[-1].not_after == rfc3339(not_after):
            return
        self.append(
            Seen(time=rfc3339(now), serial=serial, host=host, key_sha256=key_sha256, not_after=rfc3339(not_after))
        )

    def refused(self, host: str, serial: str, verdict: Verdict, now: dt.datetime) -> None:
        """Write down what was refused, once: the next visit finds the same, and says it without a line."""
        last = next((line for line in reversed(self.lines()) if line.serial == serial), None)
        if not isinstance(last, Conflict) or (last.code, last.what) != (verdict.code, verdict.what):
            self.append(Conflict(time=rfc3339(now), serial=serial, host=host, code=verdict.code, what=verdict.what))

    def settle(self, host: str, serial: str, *, reason: str, by: str, now: dt.datetime) -> None:
        """Begin the board's history anew."""
        self.append(Settled(time=rfc3339(now), serial=serial, host=host, reason=reason, by=by))


def rfc3339(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
