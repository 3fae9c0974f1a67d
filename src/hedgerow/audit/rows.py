"""Entries of the audit log as lines for people: when, who, what, about whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hedgerow.audit.events import BackedUp, Disturbed, Event, Noted, RunEnded, RunStarted, Sealed

_SHOWN = 4


class Row(NamedTuple):
    """One thing that was done. ``at`` is RFC 3339 in UTC."""

    entry: int
    at: str
    by: str
    what: str
    about: list[str]


def rows(number: int, event: Event) -> Iterator[Row]:
    """What an entry says; a seal says what the sealed log did."""
    match event:
        case RunStarted():
            kind = "--check of " if event.check else ""
            narrowed = "".join(
                f" {option} {value}"
                for option, value in (
                    ("--limit", event.limit),
                    ("--tags", ",".join(event.tags)),
                    ("--skip-tags", ",".join(event.skip_tags)),
                )
                if value
            )
            yield Row(number, event.at, event.by, f"began {kind}{event.playbook}{narrowed} [{event.run}]", event.hosts)
        case RunEnded():
            counts = ", ".join(f"{count} {name}" for name, count in event.counts.items() if count)
            worse = [*event.failed, *event.unreachable]
            yield Row(number, event.at, event.by, f"ended run {event.run}: {counts or 'nothing done'}", worse)
        case Sealed():
            for did in event.did:
                yield Row(number, did.at or event.at, did.by or event.by, f"{did.what} ({event.source})", did.about)
            if not event.did:
                yield Row(number, event.at, event.by, f"sealed {event.source}", [])
        case Disturbed():
            yield Row(number, event.at, event.by, f"DISTURBED: {event.source}: {event.what}", [])
        case Noted():
            yield Row(number, event.at, event.by, f"{event.kind}: {event.text}", [])
        case BackedUp():
            text = f"backup {event.what}: {event.file} ({event.files} files, sha256 {event.sha256[:12]})"
            yield Row(number, event.at, event.by, text, [])


def some(names: list[str]) -> str | None:
    """The first names, and how many more; None without any."""
    if not names:
        return None
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
