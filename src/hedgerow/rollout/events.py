"""What a journal says, and what follows from it. Pure.

An event is written **before** what it announces is done (``HostStarted``) or
**after** what it reports has happened (all others), so a journal cut off
anywhere never forgets a host that was touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from hedgerow.rollout.plan import Plan
from hedgerow.rollout.policy.budgets import Tally


class Outcome(StrEnum):
    """How a host came out of its turn."""

    CONFIRMED = "confirmed"
    """It serves the release, and the device's deadline is ended."""
    ALREADY = "already"
    """It served the release before its turn; nothing was done."""
    REFUSED = "refused"
    """Its preflight failed; nothing was done."""
    REVERTED = "reverted"
    """It failed and serves the version before, or nothing, as it did."""
    KEPT = "kept"
    """It failed and serves the release all the same: a device rather keeps its first model than serve none."""
    LOST = "lost"
    """It failed and nobody could make it go back; its own deadline will."""
    UNREACHABLE = "unreachable"
    """It did not answer before its turn; nothing was done."""


GOOD = frozenset({Outcome.CONFIRMED, Outcome.ALREADY})
FAILED = frozenset({Outcome.REFUSED, Outcome.REVERTED, Outcome.KEPT, Outcome.LOST})


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """``at`` is RFC 3339 in UTC."""

    at: str


class Opened(_Event, frozen=True, kw_only=True, tag="opened"):
    """The rollout began. ``by`` says who, where and with which process."""

    plan: Plan
    by: str


class Resumed(_Event, frozen=True, kw_only=True, tag="resumed"):
    """A new process took the rollout over. ``plan`` replaces the one before: hosts may have come, limits changed."""

    plan: Plan
    by: str


class HostStarted(_Event, frozen=True, kw_only=True, tag="host_started"):
    """A host is about to be changed. ``baseline`` are the reason codes that already stood."""

    host: str
    before: str | None
    baseline: list[str] = []


class HostActivated(_Event, frozen=True, kw_only=True, tag="host_activated"):
    """The device says that it serves the release, unconfirmed. ``seconds``: how long the command took."""

    host: str
    seconds: float


class HostJudged(_Event, frozen=True, kw_only=True, tag="host_judged"):
    """The gate's last word. ``looks``: how often the host was looked at."""

    host: str
    verdict: str
    reason: str
    looks: int
    seconds: float


class HostFinished(_Event, frozen=True, kw_only=True, tag="host_finished"):
    """The host's turn is over."""

    host: str
    outcome: Outcome
    reason: str


class Stopped(_Event, frozen=True, kw_only=True, tag="stopped"):
    """No further host may start."""

    reason: str


class Closed(_Event, frozen=True, kw_only=True, tag="closed"):
    """The process that ran it came to its end in order."""


Event = Opened | Resumed | HostStarted | HostActivated | HostJudged | HostFinished | Stopped | Closed


class HostState(msgspec.Struct, kw_only=True):
    """One host so far. ``before`` is ``name@version``, None if it served nothing."""

    started_at: str | None = None
    before: str | None = None
    baseline: list[str] = []
    activated_s: float | None = None
    verdict: str | None = None
    outcome: Outcome | None = None
    reason: str = ""
    finished_at: str | None = None


class State(msgspec.Struct, kw_only=True):
    """Everything a journal says."""

    plan: Plan
    opened_at: str
    by: str
    hosts: dict[str, HostState]
    stopped: str | None = None
    closed_at: str | None = None

    def tally(self) -> Tally:
        """Hosts lost so far, for the budgets."""
        outcomes = [host.outcome for host in self.hosts.values()]
        return Tally(
            failed=sum(outcome in FAILED for outcome in outcomes), unreachable=outcomes.count(Outcome.UNREACHABLE)
        )

    def count(self) -> dict[str, int]:
        """Hosts by outcome; ``not_started`` and ``unfinished`` for those without one."""
        counts: dict[str, int] = {}
        for name in self.plan.hosts:
            host = self.hosts[name]
            waiting = "unfinished" if host.started_at else "not_started"
            key = str(host.outcome) if host.outcome is not None else waiting
            counts[key] = counts.get(key, 0) + 1
        return counts

    @property
    def complete(self) -> bool:
        """Every planned host serves the release."""
        return all(self.hosts[name].outcome in GOOD for name in self.plan.hosts)

    @property
    def phase(self) -> str:
        """``complete``, ``stopped``, ``partial`` (ended, hosts are missing) or ``open`` (running or cut off)."""
        if self.complete:
            return "complete"
        if self.stopped is not None:
            return "stopped"
        return "open" if self.closed_at is None else "partial"


def replay(events: Iterable[Event]) -> State | None:
    """Fold events into a state; None for a journal that says nothing yet."""
    state: State | None = None
    for event in events:
        if isinstance(event, Opened):
            state = State(plan=event.plan, opened_at=event.at, by=event.by, hosts={})
            _admit(state)
        elif state is None:
            raise ValueError(f"the journal begins with {type(event).__name__}, not with Opened")
        else:
            _apply(state, event)
    return state


def _admit(state: State) -> None:
    for name in state.plan.hosts:
        state.hosts.setdefault(name, HostState())


def _apply(state: State, event: Event) -> None:
    match event:
        case Resumed():
            state.plan, state.by, state.closed_at = event.plan, event.by, None
            _admit(state)
        case HostStarted():
            host = state.hosts[event.host]
            host.started_at, host.before, host.baseline = event.at, event.before, event.baseline
        case HostActivated():
            state.hosts[event.host].activated_s = event.seconds
        case HostJudged():
            host = state.hosts[event.host]
            host.verdict, host.reason = event.verdict, event.reason
        case HostFinished():
            host = state.hosts[event.host]
            host.outcome, host.reason, host.finished_at = event.outcome, event.reason, event.at
        case Stopped():
            state.stopped = event.reason
        case Closed():
            state.closed_at = event.at
