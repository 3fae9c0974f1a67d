"""Where rollouts live: ``var/fleets/<fleet>/rollouts/<id>/`` with ``journal.jsonl`` and ``plan.json``.

A rollout that was cut off is gone on with by the same command: the newest one
of the same bundle is resumed until it came to its end in order. One that did, stopped or not,
stays as it is, and the next run is a new rollout. Another bundle supersedes a
rollout that is open and that nobody runs, once no host of it is half-way.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from hedgerow import atomic, paths
from hedgerow.errors import RefusedError, UsageError
from hedgerow.rollout import decide, holds, lease
from hedgerow.rollout.events import Closed, Opened, Resumed, State, Superseded
from hedgerow.rollout.journal import FILE, Journal, timestamp
from hedgerow.rollout.plan import Plan


def folder(fleet: str) -> Path:
    """All rollouts of a fleet."""
    return paths.fleet_dir(fleet) / "rollouts"


def ids(rollouts: Path) -> list[str]:
    """Rollout ids, oldest first: an id begins with its time."""
    return sorted(path.parent.name for path in rollouts.glob(f"*/{FILE}"))


def sizes(rollouts: Path) -> dict[str, int]:
    """Rollout id → bytes of its journal, oldest first."""
    return {rollout: (rollouts / rollout / FILE).stat().st_size for rollout in ids(rollouts)}


def read(rollouts: Path, rollout: str | None = None) -> tuple[str, State]:
    """The id and state of ``rollout``, or of the newest one.

    Raises:
        UsageError: There is none.
    """
    known = ids(rollouts)
    for chosen in reversed(known) if rollout is None else [rollout]:
        state = Journal(rollouts / chosen).state()
        # One that was killed before its first line was whole has said nothing, and done nothing.
        if state is not None:
            return chosen, state
    raise UsageError(
        "this fleet had no rollout yet" if rollout is None else f"no rollout {rollout}",
        where=str(rollouts),
        next_step="known ones: " + ", ".join(known[-5:]) if known else "start one: hedgerow rollout start --help",
    )


def since(rollouts: Path, moment: datetime) -> Iterator[tuple[str, State]]:
    """Rollouts whose journal was written to after ``moment``, oldest first: id and state."""
    for rollout in ids(rollouts):
        if (rollouts / rollout / FILE).stat().st_mtime < moment.timestamp():
            continue
        state = Journal(rollouts / rollout).state()
        if state is not None:
            yield rollout, state


def begin(rollouts: Path, plan: Plan, *, pid: int, now: datetime) -> Journal:
    """Take the fleet's lease for process ``pid`` and open a rollout, or go on with the one that was cut off.

    Raises:
        RefusedError: Another process is rolling out, ``plan`` leaves out a host that was cut off half-way, or
            another bundle's rollout was.
    """
    by = lease.whoami()
    at = timestamp(now)
    open_one = interrupted(rollouts, plan.release.sha256)
    if open_one is None:
        _supersede_stuck(rollouts, plan, pid=pid, by=by, now=now)
        name = _fresh_name(rollouts, plan, now)
    else:
        name = open_one[0]
        _refuse_forgetting(open_one[1], plan, name)
    lease.take(rollouts, name, pid=pid, by=by, since=at)
    journal = Journal(rollouts / name, pid=pid)
    if open_one is None:
        journal.append(Opened(at=at, plan=plan, by=by))
    else:
        journal.append(Resumed(at=at, plan=plan, by=by))
    atomic.write_bytes(journal.folder / "plan.json", msgspec.json.format(msgspec.json.encode(plan)) + b"\n")
    return journal


def reopen(rollouts: Path, rollout: str | None, *, pid: int, now: datetime) -> Journal:
    """Take the lease for a rollout that exists, to bring its hosts back or to an end. None: the newest.

    Raises:
        UsageError: There is none.
        RefusedError: Another process is rolling out, or there is a newer rollout.
    """
    name, state = read(rollouts, rollout)
    newest = read(rollouts)[0]
    if name != newest:
        raise RefusedError(
            f"rule newest-only: {newest} came after {name}, and what hosts go back to is what it left",
            where=str(rollouts),
            next_step="roll the newer one back, or start a rollout of the version that you want",
        )
    by, at = lease.whoami(), timestamp(now)
    lease.take(rollouts, name, pid=pid, by=by, since=at)
    journal = Journal(rollouts / name, pid=pid)
    journal.append(Resumed(at=at, plan=state.plan, by=by))
    return journal


def taken_over(rollouts: Path, bundle: str) -> tuple[str, State] | None:
    """The stuck rollout that one of ``bundle`` supersedes, or has superseded just now; None: there is none."""
    newest = _newest(rollouts)
    if newest is None:
        return None
    state = newest[1]
    stuck = _cut_off(state) and state.phase == "open" and state.plan.release.bundle != bundle
    return newest if stuck or state.superseded_by == bundle else None


def _supersede_stuck(rollouts: Path, plan: Plan, *, pid: int, by: str, now: datetime) -> None:
    """Journal that this plan takes over from the newest rollout, if that is open; who went wrong there is kept out."""
    newest = _newest(rollouts)
    if newest is None or not _cut_off(newest[1]):
        return
    name, state = newest
    journal = Journal(rollouts / name, pid=pid)
    halfway = list(dict.fromkeys([*state.turns, *decide.to_undo(state)]))
    if halfway:
        raise RefusedError(
            f"rule no-host-forgotten: rollout {journal.folder.name} of {state.plan.release.bundle} was cut off with "
            f"{', '.join(halfway)} half-way",
            where=str(journal.folder),
            next_step=f"bring it to an end first: hedgerow rollout supersede {plan.release.bundle}",
        )
    if state.phase != "open":
        return
    at = timestamp(now)
    lease.take(rollouts, journal.folder.name, pid=pid, by=by, since=at)
    # Before the end is journaled: cut off in between, it is done when the same command is given again.
    holds.quarantine_failed(rollouts, name, state, now)
    journal.append(Superseded(at=at, by=plan.release.bundle))
    journal.append(Closed(at=at))


def _newest(rollouts: Path) -> tuple[str, State] | None:
    try:
        return read(rollouts)
    except UsageError:
        return None


def interrupted(rollouts: Path, sha256: str) -> tuple[str, State] | None:
    """The rollout that a run of the bundle with this manifest's hash goes on with; None: it would be a new one."""
    newest = _newest(rollouts)
    if newest is None or not _cut_off(newest[1]) or newest[1].plan.release.sha256 != sha256:
        return None
    return newest


def _cut_off(state: State) -> bool:
    """It did not end in order: hosts are to come, or to go back, or its end alone is missing."""
    return state.closed_at is None


def _refuse_forgetting(state: State, plan: Plan, name: str) -> None:
    forgotten = sorted({*state.turns, *decide.to_undo(state)} - set(plan.hosts))
    if forgotten:
        raise RefusedError(
            f"rule no-host-forgotten: rollout {name} was cut off with {', '.join(forgotten)} half-way",
            where="--limit, a new hold label, or hedgerow rollout hold",
            next_step=f"run again with {', '.join(forgotten)} in the plan",
        )


def _fresh_name(rollouts: Path, plan: Plan, now: datetime) -> str:
    stem = f"{now:%Y%m%dT%H%M%SZ}-{plan.release.bundle.replace('@', '-').replace(':', '-')}"
    name, number = stem, 1
    while (rollouts / name).exists():
        number += 1
        name = f"{stem}.{number}"
    return name


def close(journal: Journal, *, pid: int) -> State:
    """Journal the end in order, give the lease back, and return the last state."""
    state = journal.read()
    if state.superseding is not None and state.superseded_by is None:
        journal.append(Superseded(at=timestamp(), by=state.superseding))
    journal.append(Closed(at=timestamp()))
    lease.leave(journal.folder.parent, pid=pid)
    return read(journal.folder.parent, journal.folder.name)[1]
