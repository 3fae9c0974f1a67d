"""What became of boards: ``var/fleets/<fleet>/lifecycle.jsonl``, a line an event, never changed."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec

from hedgerow.identity import ledger

FILE = "lifecycle.jsonl"


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """``time`` is RFC 3339 in UTC; ``by`` says who, where."""

    time: str
    host: str
    by: str


class Decommissioned(_Event, frozen=True, kw_only=True, tag="decommissioned"):
    """A board left. ``wiped``: what was on it is gone; ``left`` names what is not, a sentence each."""

    serial: str
    reason: str
    wiped: bool
    left: list[str] = []


class Replacing(_Event, frozen=True, kw_only=True, tag="replacing"):
    """Another board takes the host's name: the old one's certificates are revoked, its host key is forgotten."""

    old_serial: str
    new_serial: str


class Replaced(_Event, frozen=True, kw_only=True, tag="replaced"):
    """The new board is what the old one was. ``restored``: the model it serves again, None where nobody knew."""

    old_serial: str
    new_serial: str
    restored: str | None = None


class Adopted(_Event, frozen=True, kw_only=True, tag="adopted"):
    """A Pi that already ran something was converged."""

    serial: str


Event = Decommissioned | Replacing | Replaced | Adopted


def append(fleet_dir: Path, event: Event) -> None:
    fleet_dir.mkdir(parents=True, exist_ok=True)
    ledger.append(fleet_dir / FILE, event)


def read(fleet_dir: Path) -> list[Event]:
    return list(ledger.read(fleet_dir / FILE, Event))


def departure(events: list[Event], serial: str) -> Decommissioned | None:
    """The last word on the board, if that is that it left."""
    last = None
    for event in events:
        if isinstance(event, Decommissioned | Adopted) and event.serial == serial:
            last = event
        if isinstance(event, Replaced | Replacing) and event.new_serial == serial:
            last = None
    return last if isinstance(last, Decommissioned) else None


def is_replacing(events: list[Event], host: str, old: str, new: str) -> bool:
    """Whether this exchange was begun: what must happen once has happened."""
    return any(
        isinstance(event, Replacing) and (event.host, event.old_serial, event.new_serial) == (host, old, new)
        for event in events
    )


def now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
