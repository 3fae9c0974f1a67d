"""What each event changes in the state. Pure.

``State`` changes here alone, so that every tally follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from hedgerow.rollout import records
from hedgerow.rollout.events.host import HostState
from hedgerow.rollout.records import (
    AWAY,
    HARMED,
    Closed,
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
    Rechecked,
    RequestKind,
    Resumed,
    RolledBack,
    Stopped,
    Superseded,
    Surveyed,
    Telling,
    Waiting,
    WaveOpened,
)

if TYPE_CHECKING:
    from hedgerow.rollout.events.state import State


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
    if outcome in AWAY:
        state.away[name] = str(outcome)
    elif outcome not in {None, Outcome.REFUSED, Outcome.SKIPPED}:
        state.away.pop(name, None)
    host.outcome, host.reason, host.finished_at = outcome, reason, at
    return host


def _resumed(state: State, event: Resumed) -> None:
    state.by, state.closed_at = event.by, None
    # Nothing was done on them, so that they have their turn again.
    for name, host in state.hosts.items():
        if host.outcome is Outcome.SKIPPED:
            _settle(state, name, None, "", None)
    state.admit(event.plan)


def _wave_opened(state: State, event: WaveOpened) -> None:
    state.wave, state.waiting, state.waited_at = max(state.wave, event.number), None, None


def _waiting(state: State, event: Waiting) -> None:
    state.waiting, state.waited_at = (event.code, event.reason), event.at


def _rechecked(state: State, event: Rechecked) -> None:
    state.rechecked = event.last or state.rechecked
    state.away |= dict.fromkeys(event.away, "silent or failing")
    for name in event.back:
        state.away.pop(name, None)


def _prepared(state: State, event: HostPrepared) -> None:
    host = state.hosts[event.host]
    host.before, host.baseline = event.before, event.baseline
    state.away.pop(event.host, None)


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


def _surveyed(state: State, event: Surveyed) -> None:
    state.surveyed = True
    state.away |= dict.fromkeys(event.silent, "silent")


def _notified(state: State, event: Telling | Notified) -> None:
    """Kept for the archive; nothing follows from it."""


CHANGES: Final[dict[type[Any], Callable[[State, Any], None]]] = {
    Resumed: _resumed,
    Surveyed: _surveyed,
    WaveOpened: _wave_opened,
    Waiting: _waiting,
    Rechecked: _rechecked,
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
    Telling: _notified,
    Notified: _notified,
    Closed: _closed,
}
"""What each event but ``Opened`` changes; ``State.apply`` looks here."""
if missing := set(records.EVENTS) - set(CHANGES) - {Opened}:
    raise TypeError(f"events without a meaning: {missing}")
