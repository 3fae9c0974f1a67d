"""What follows from a journal: its events folded into a state, one at a time. Pure.

``State.apply`` costs the same however long the journal is: every count that a
decision needs is kept, none is taken again. The events themselves are
``hedgerow.rollout.records``, and can be had from here as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from hedgerow.rollout import records
from hedgerow.rollout.gate.verdicts import CriterionResult
from hedgerow.rollout.plan import Plan
from hedgerow.rollout.policy.budgets import Tally
from hedgerow.rollout.records import (
    FAILED,
    GOOD,
    HARMED,
    UNTOUCHED,
    Closed,
    Event,
    HostActivated,
    HostFell,
    HostFinished,
    HostJudged,
    HostPrepared,
    HostResolved,
    HostRetried,
    HostStaged,
    HostStarted,
    HostUndone,
    Notified,
    Opened,
    OperatorAsked,
    Outcome,
    Request,
    RequestKind,
    Resumed,
    RolledBack,
    Stopped,
    Superseded,
    Surveyed,
    Waiting,
    WaveOpened,
)

__all__ = [
    "FAILED",
    "GOOD",
    "HARMED",
    "UNTOUCHED",
    "Closed",
    "CriterionResult",
    "Event",
    "HostActivated",
    "HostFell",
    "HostFinished",
    "HostJudged",
    "HostPrepared",
    "HostResolved",
    "HostRetried",
    "HostStaged",
    "HostStarted",
    "HostState",
    "HostUndone",
    "Notified",
    "Opened",
    "OperatorAsked",
    "Outcome",
    "Request",
    "RequestKind",
    "Resumed",
    "RolledBack",
    "State",
    "Stopped",
    "Superseded",
    "Surveyed",
    "Waiting",
    "WaveOpened",
    "replay",
]


class HostState(msgspec.Struct, kw_only=True):
    """One host so far. ``before`` is ``name@version``, None if it served nothing."""

    started_at: str | None = None
    before: str | None = None
    baseline: list[str] = []
    staged_s: float | None = None
    new_bytes: int | None = None
    retries: int = 0
    activated_s: float | None = None
    load_s: float | None = None
    verdict: str | None = None
    metrics_before: dict[str, float] = {}
    metrics_after: dict[str, float] = {}
    criteria: list[CriterionResult] = []
    outcome: Outcome | None = None
    reason: str = ""
    finished_at: str | None = None
    fell: str | None = None
    """Why it got worse after its confirmation."""


class State(msgspec.Struct, kw_only=True):
    """Everything a journal says. Change it by ``apply`` alone: the tallies follow."""

    plan: Plan
    opened_at: str
    by: str
    hosts: dict[str, HostState]
    stopped: str | None = None
    undo: bool = False
    """The stop takes back what the rollout has done."""
    closed_at: str | None = None
    surveyed: bool = False
    wave: int = 0
    """The last wave that was opened; 0 before the first."""
    waiting: tuple[str, str] | None = None
    """Code and reason of the wait that was last begun; None once a wave opened after it."""
    waited_at: str | None = None
    paused: str | None = None
    no_data: str | None = None
    """Which host could not be judged, until somebody resumes."""
    approvals: dict[int, list[str]] = {}
    """Wave → who approved it, each once, signed unless the policy asks for no signature."""
    asked: int = 0
    """How many lines of ``requests.jsonl`` were taken."""
    rolled_back: str | None = None
    superseding: str | None = None
    """Bundle that is to come instead; the halfway hosts come first."""
    superseded_by: str | None = None
    turns: dict[str, None] = {}
    """Hosts in their turn: started, no outcome yet."""
    holding: dict[str, None] = {}
    """Hosts that got the release in this rollout and are to keep it."""
    fallen: dict[str, None] = {}
    """Of these, who got worse since and was not brought back yet."""
    lost: dict[str, None] = {}
    harmed: int = 0
    """Hosts that failed with the release on them."""
    outcomes: dict[Outcome, int] = {}
    unplanned: list[str] = []
    """Hosts of an earlier plan that the present one leaves out."""
    host_count: int = 0

    def apply(self, event: Event) -> None:
        """Fold one more event in; O(1), but for ``Resumed``, which brings a plan."""
        _APPLY[type(event)](self, event)

    def tally(self) -> Tally:
        """Hosts lost so far, for the budgets."""
        return Tally(
            failed=sum(self.outcomes.get(outcome, 0) for outcome in FAILED) + len(self.fallen),
            unreachable=self.outcomes.get(Outcome.UNREACHABLE, 0),
            environment=self.outcomes.get(Outcome.ENVIRONMENT, 0),
        )

    def count(self) -> dict[str, int]:
        """Planned hosts by outcome; ``not_started`` and ``unfinished`` for those without one."""
        counts = Counter({str(outcome): number for outcome, number in self.outcomes.items()})
        counts["unfinished"] = len(self.turns)
        counts["not_started"] = self.host_count - sum(counts.values())
        counts.subtract(_standing(self.hosts[name]) for name in self.unplanned)
        return {key: number for key, number in counts.items() if number > 0}

    @property
    def complete(self) -> bool:
        """Every planned host serves the release, and is well."""
        missing_good = self.host_count - sum(self.outcomes.get(outcome, 0) for outcome in GOOD)
        return not self.fallen and missing_good == sum(self.hosts[name].outcome not in GOOD for name in self.unplanned)

    @property
    def phase(self) -> str:
        """``complete``, ``rolled_back``, ``superseded``, ``stopped``, ``partial`` (ended, hosts missing) or ``open``.

        Open is a rollout that runs, or was cut off.
        """
        if self.rolled_back is not None:
            return "rolled_back"
        if self.superseded_by is not None:
            return "superseded"
        if self.complete:
            return "complete"
        if self.stopped is not None:
            return "stopped"
        return "open" if self.closed_at is None else "partial"


def begin(event: Opened) -> State:
    """The state that an opening makes."""
    state = State(plan=event.plan, opened_at=event.at, by=event.by, hosts={})
    _admit(state)
    return state


def replay(events: Iterable[Event], state: State | None = None) -> State | None:
    """Fold events into ``state``; None for a journal that says nothing yet."""
    for event in events:
        if isinstance(event, Opened):
            state = begin(event)
        elif state is None:
            raise ValueError(f"the journal begins with {type(event).__name__}, not with Opened")
        else:
            state.apply(event)
    return state


def _standing(host: HostState) -> str:
    if host.outcome is not None:
        return str(host.outcome)
    return "unfinished" if host.started_at else "not_started"


def _admit(state: State) -> None:
    planned = state.plan.hosts
    for name in planned:
        state.hosts.setdefault(name, HostState())
    state.host_count = len(state.hosts)
    state.unplanned = sorted(set(state.hosts).difference(planned))


def _settle(state: State, name: str, outcome: Outcome | None, reason: str, at: str | None) -> HostState:
    """Give a host its outcome (None: take it back), and keep every tally in step."""
    host = state.hosts[name]
    if host.outcome is not None:
        state.outcomes[host.outcome] -= 1
    if outcome is not None:
        state.outcomes[outcome] = state.outcomes.get(outcome, 0) + 1
    for group, member in (
        (state.turns, outcome is None and host.started_at is not None),
        (state.holding, outcome is Outcome.CONFIRMED),
        (state.lost, outcome is Outcome.LOST),
    ):
        if member:
            group[name] = None
        else:
            group.pop(name, None)
    state.fallen.pop(name, None)
    host.outcome, host.reason, host.finished_at = outcome, reason, at
    return host


def _resumed(state: State, event: Resumed) -> None:
    state.plan, state.by, state.closed_at = event.plan, event.by, None
    # Nothing was done on them, so that they have their turn again.
    for name, host in state.hosts.items():
        if host.outcome is Outcome.SKIPPED:
            _settle(state, name, None, "", None)
    _admit(state)


def _wave_opened(state: State, event: WaveOpened) -> None:
    state.wave, state.waiting, state.waited_at = max(state.wave, event.number), None, None


def _waiting(state: State, event: Waiting) -> None:
    state.waiting, state.waited_at = (event.code, event.reason), event.at


def _prepared(state: State, event: HostPrepared) -> None:
    host = state.hosts[event.host]
    host.before, host.baseline = event.before, event.baseline


def _started(state: State, event: HostStarted) -> None:
    host = state.hosts[event.host]
    host.started_at, host.before, host.baseline = event.at, event.before, event.baseline
    if host.outcome is None:
        state.turns[event.host] = None


def _staged(state: State, event: HostStaged) -> None:
    host = state.hosts[event.host]
    host.staged_s, host.new_bytes = event.seconds, event.new_bytes


def _retried(state: State, event: HostRetried) -> None:
    state.hosts[event.host].retries += 1


def _activated(state: State, event: HostActivated) -> None:
    host = state.hosts[event.host]
    host.activated_s, host.load_s = event.seconds, event.load_s


def _judged(state: State, event: HostJudged) -> None:
    host = state.hosts[event.host]
    host.verdict, host.reason, host.criteria = event.verdict, event.reason, event.criteria
    host.metrics_before, host.metrics_after = event.before, event.after


def _finished(state: State, event: HostFinished) -> None:
    _settle(state, event.host, event.outcome, event.reason, event.at)
    state.harmed += event.outcome in HARMED
    if event.outcome is Outcome.UNJUDGED:
        state.no_data = f"{event.host}: {event.reason}"


def _fell(state: State, event: HostFell) -> None:
    if event.host in state.holding:
        state.fallen[event.host] = None
        state.harmed += 1
    state.hosts[event.host].fell = event.reason


def _undone(state: State, event: HostUndone | HostResolved) -> None:
    _settle(state, event.host, event.outcome, event.reason, event.at)


def _asked(state: State, event: OperatorAsked) -> None:
    state.asked += 1
    request = event.request
    if event.refused is not None:
        return
    why = f": {request.reason}" if request.reason else ""
    match request.kind:
        case RequestKind.PAUSE:
            state.paused = f"by {request.by}{why}"
        case RequestKind.RESUME:
            state.paused = state.no_data = None
        case RequestKind.APPROVE:
            names = state.approvals.setdefault(request.wave if request.wave is not None else state.wave + 1, [])
            if request.by not in names:
                names.append(request.by)
        case RequestKind.SUPERSEDE:
            state.superseding = request.bundle
            _stop(state, f"superseded by {request.bundle}, says {request.by}{why}", undo=False)
        case RequestKind.ABORT:
            _stop(state, f"emergency stop by {request.by}{why}", undo=True)
        case RequestKind.ROLLBACK:
            state.rolled_back = f"by {request.by}{why}"
            _stop(state, f"rolled back {state.rolled_back}", undo=True)


def _stop(state: State, reason: str, *, undo: bool) -> None:
    """The first reason stays; a stop that takes nothing back can become one that does."""
    state.stopped = reason if state.stopped is None else state.stopped
    state.undo = state.undo or undo


def _stopped(state: State, event: Stopped) -> None:
    _stop(state, event.reason, undo=event.undo)


def _rolled_back(state: State, event: RolledBack) -> None:
    state.rolled_back = event.reason


def _superseded(state: State, event: Superseded) -> None:
    state.superseded_by = event.by


def _closed(state: State, event: Closed) -> None:
    state.closed_at = event.at


def _surveyed(state: State, event: Surveyed) -> None:  # noqa: ARG001 - the signature of all
    state.surveyed = True


def _notified(state: State, event: Notified) -> None:
    """Kept for the archive; nothing follows from it."""


_APPLY: dict[type[Any], Callable[[State, Any], None]] = {
    Resumed: _resumed,
    Surveyed: _surveyed,
    WaveOpened: _wave_opened,
    Waiting: _waiting,
    HostPrepared: _prepared,
    HostStarted: _started,
    HostStaged: _staged,
    HostRetried: _retried,
    HostActivated: _activated,
    HostJudged: _judged,
    HostFinished: _finished,
    HostFell: _fell,
    HostUndone: _undone,
    HostResolved: _undone,
    OperatorAsked: _asked,
    Stopped: _stopped,
    RolledBack: _rolled_back,
    Superseded: _superseded,
    Notified: _notified,
    Closed: _closed,
}
if missing := set(records.EVENTS) - set(_APPLY) - {Opened}:
    raise TypeError(f"events without a meaning: {missing}")
