"""Hosts that rollouts leave alone for a while: ``var/fleets/<fleet>/rollouts/holds.jsonl``, appended and never changed.

- ``hold``: a person wants it, until a time or until the host is released.
- ``quarantine``: the host failed in a rollout (``origin``); it ends by its timer
  or when the host is released.
- ``release`` ends both.

A hold label in the inventory counts beside them, and only the inventory ends
it. A line is on the disk (``fsync``) when its writer returns; a last line
without its newline was cut off before that, so nobody was told that it counts.
Any other line that cannot be read is damage: it may be the one that keeps a
host from harm, so nobody plans over it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

import msgspec

from hedgerow import atomic
from hedgerow.errors import MachineError
from hedgerow.rollout.events import HARMED, Outcome, State
from hedgerow.rollout.journal import timestamp
from hedgerow.rollout.plan import Target

FILE = "holds.jsonl"

QUARANTINED = HARMED | {Outcome.ENVIRONMENT}
"""Outcomes that say something against the host: it failed with the release on it, was lost, or was set aside."""


class Kind(StrEnum):
    """What a line says."""

    HOLD = "hold"
    QUARANTINE = "quarantine"
    RELEASE = "release"


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line. Times are RFC 3339; ``until`` None: until the host is released."""

    kind: Kind
    host: str
    at: str
    by: str
    reason: str = ""
    until: str | None = None
    origin: str | None = None
    """The rollout in which it went wrong."""

    def stands(self, now: datetime) -> bool:
        """Whether it still keeps its host out at ``now`` (aware)."""
        return self.until is None or now < datetime.fromisoformat(self.until)


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps one host out; at least one of both is there."""

    hold: Entry | None = None
    quarantine: Entry | None = None


def hold(rollouts: Path, host: str, reason: str, *, by: str, now: datetime, until: datetime | None = None) -> Entry:
    """Leave ``host`` out of the plans to come. A later hold replaces an earlier one."""
    entry = Entry(kind=Kind.HOLD, host=host, at=timestamp(now), by=by, reason=reason, until=_text(until))
    _append(rollouts, [entry])
    return entry


def quarantine(
    rollouts: Path, host: str, reason: str, until: datetime | None, rollout: str, *, now: datetime
) -> Entry | None:
    """Leave ``host`` out because it went wrong in ``rollout``; None where that was said of it and this rollout before.

    A release in between counts: the same failure does not bring a host back into quarantine.
    """
    if any(each.host == host and each.origin == rollout for each in read(rollouts)):
        return None
    entry = _quarantine(host, reason, until, rollout, now=now)
    _append(rollouts, [entry])
    return entry


def _quarantine(host: str, reason: str, until: datetime | None, rollout: str, *, now: datetime) -> Entry:
    return Entry(
        kind=Kind.QUARANTINE,
        host=host,
        at=timestamp(now),
        by=f"rollout {rollout}",
        reason=reason,
        until=_text(until),
        origin=rollout,
    )


def release(rollouts: Path, host: str, *, by: str, now: datetime, reason: str = "") -> Standing | None:
    """End whatever stands against ``host``; what that was, or None where nothing did (nothing is written then)."""
    ended = standing(read(rollouts), now).get(host)
    if ended is not None:
        _append(rollouts, [Entry(kind=Kind.RELEASE, host=host, at=timestamp(now), by=by, reason=reason)])
    return ended


def due(entries: Iterable[Entry], rollout: str, state: State, now: datetime) -> list[Entry]:
    """The quarantines that ``quarantine_failed`` would add to ``entries``. Pure."""
    seconds = state.plan.policy.quarantine_s
    if not seconds:
        return []
    known = {each.host for each in entries if each.origin == rollout}
    until = now + timedelta(seconds=seconds)
    return [
        _quarantine(name, host.fell or host.reason, until, rollout, now=now)
        for name, host in state.hosts.items()
        if name not in known and (host.outcome in QUARANTINED or host.fell is not None)
    ]


def quarantine_failed(rollouts: Path, rollout: str, state: State, now: datetime) -> list[Entry]:
    """Quarantine whoever went wrong in ``rollout``, where its policy asks for that; the new entries.

    Called when a rollout has ended: while it can be gone on with, a host that it has to see to must stay in its plan.
    """
    entries = due(read(rollouts), rollout, state, now)
    if entries:
        _append(rollouts, entries)
    return entries


def standing(entries: Iterable[Entry], now: datetime) -> dict[str, Standing]:
    """Host → what keeps it out at ``now``. Pure."""
    found: dict[str, Standing] = {}
    for entry in entries:
        known = found.get(entry.host, Standing())
        match entry.kind:
            case Kind.RELEASE:
                found.pop(entry.host, None)
            case Kind.HOLD:
                found[entry.host] = msgspec.structs.replace(known, hold=entry)
            case Kind.QUARANTINE:
                found[entry.host] = msgspec.structs.replace(known, quarantine=entry)
    running = {
        host: Standing(
            hold=each.hold if each.hold is not None and each.hold.stands(now) else None,
            quarantine=each.quarantine if each.quarantine is not None and each.quarantine.stands(now) else None,
        )
        for host, each in found.items()
    }
    return {host: each for host, each in running.items() if each != Standing()}


def merge(targets: Iterable[Target], held: Mapping[str, Standing]) -> list[Target]:
    """``targets`` with what stands against them, beside the inventory's labels. Pure."""
    return [_with(target, held[target.name]) if target.name in held else target for target in targets]


def _with(target: Target, held: Standing) -> Target:
    changes: dict[str, str | None] = {}
    if held.hold is not None:
        own = f"{held.hold.reason} ({held.hold.by})"
        # The label ends when somebody takes it out: no time that the other hold has is the end of both.
        changes |= (
            {"hold": own, "hold_until": held.hold.until}
            if target.hold is None
            else {"hold": f"{target.hold}; {own}", "hold_until": None}
        )
    if held.quarantine is not None:
        changes |= {
            "quarantine": held.quarantine.reason,
            "quarantined_until": held.quarantine.until,
            "quarantined_by": held.quarantine.origin,
        }
    return msgspec.structs.replace(target, **changes)


def lines(held: Mapping[str, Standing], labels: Mapping[str, str]) -> list[str]:
    """Who is kept out, a line each, for people. ``labels``: host → hold label of the inventory. Pure."""
    said = [f"held: {host} (label: {reason})" for host, reason in sorted(labels.items())]
    for host, each in sorted(held.items()):
        if each.hold is not None:
            said.append(f"held: {host} ({each.hold.reason}, by {each.hold.by}{_end(each.hold)})")
        if each.quarantine is not None:
            origin = each.quarantine.origin
            said.append(f"in quarantine: {host} ({each.quarantine.reason}, in {origin}{_end(each.quarantine)})")
    return said


def _end(entry: Entry) -> str:
    return "" if entry.until is None else f", until {entry.until}"


def read(rollouts: Path) -> list[Entry]:
    """Every whole line, oldest first.

    Raises:
        MachineError: A line is damaged; says which.
    """
    path = rollouts / FILE
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = msgspec.json.decode(line, type=Entry)
            entry.stands(datetime.fromisoformat(entry.at))
        except (msgspec.DecodeError, ValueError, TypeError) as error:
            raise MachineError(
                f"the list of held hosts is damaged: {error}",
                where=f"{path}:{number}",
                next_step="put the line right or take it out, then see who is held: hedgerow rollout status",
            ) from error
        entries.append(entry)
    return entries


def _append(rollouts: Path, entries: Iterable[Entry]) -> None:
    rollouts.mkdir(parents=True, exist_ok=True)
    path = rollouts / FILE
    fresh = not path.exists()
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        data = file.read()
        if data and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)
        file.write(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
        file.flush()
        os.fsync(file.fileno())
    if fresh:
        atomic.fsync_dir(rollouts)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)
