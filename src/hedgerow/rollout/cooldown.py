"""Cooldown: a bundle that was taken back does not come again at once. Pure.

What counts is that hosts had been **confirmed** with it and went back: by a
rollback, an emergency stop, or a breach in a later wave. To run the same
command again at once would take these hosts forward and, if nobody has found
the cause, back again. A rollout that stopped before it had confirmed anybody
harmed only hosts that are back already: mend what it named and run it again,
without a wait. Of several rollouts of a bundle the newest decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from hedgerow.errors import RefusedError
from hedgerow.rollout.events import GOOD, Outcome, State
from hedgerow.rollout.gate.verdicts import Verdict
from hedgerow.rollout.plan import Release


class Cooling(msgspec.Struct, frozen=True, kw_only=True):
    """Until when a bundle stays out, and why."""

    rollout: str
    why: str
    hosts: int
    """How many had been confirmed and went back."""
    taken_back_at: datetime
    until: datetime


def refuse(past: Iterable[tuple[str, State]], release: Release, cooldown_s: float, now: datetime) -> None:
    """Refuse a release that was taken back less than ``cooldown_s`` seconds before ``now``; arguments as ``cooling``.

    Raises:
        RefusedError: Names the rule, the end, and the way round it.
    """
    found = cooling(past, release.sha256, cooldown_s, now)
    if found is not None:
        raise RefusedError(
            f"rule cooldown: {release.bundle} was taken back from {found.hosts} host(s) at "
            f"{found.taken_back_at:%Y-%m-%d %H:%M:%S %Z} ({found.why}); it may come again from "
            f"{found.until:%Y-%m-%d %H:%M:%S %Z} on",
            where=f"rollout {found.rollout}",
            next_step="wait, or if its cause is mended: cooldown_s: 0 in the rollout policy",
        )


def cooling(past: Iterable[tuple[str, State]], sha256: str, cooldown_s: float, now: datetime) -> Cooling | None:
    """What keeps the bundle with this manifest's hash out at ``now``; ``past``: id and state, oldest first."""
    for name, state in [each for each in past if each[1].plan.release.sha256 == sha256][-1:]:
        until = ends(state, cooldown_s)
        if until is not None and now < until:
            why = state.stopped or "its hosts were brought back"
            last = until - timedelta(seconds=cooldown_s)
            return Cooling(rollout=name, why=why, hosts=len(taken_back(state)), taken_back_at=last, until=until)
    return None


def ends(state: State, cooldown_s: float) -> datetime | None:
    """When a rollout's bundle may come again; None where nothing keeps it out."""
    back = taken_back(state)
    if not back or not cooldown_s:
        return None
    return max(datetime.fromisoformat(at) for at in back.values()) + timedelta(seconds=cooldown_s)


def taken_back(state: State) -> dict[str, str]:
    """Hosts that were confirmed in a rollout and went back, with when."""
    return {
        name: host.finished_at
        for name, host in state.hosts.items()
        if host.finished_at is not None
        and host.outcome not in GOOD
        and (host.fell is not None or (host.verdict == Verdict.PASS and host.outcome is Outcome.UNDONE))
    }
