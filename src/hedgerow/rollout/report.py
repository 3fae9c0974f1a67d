"""A rollout in words and figures. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from hedgerow.rollout import ahead, cooldown, events
from hedgerow.rollout.events import GOOD, HostState, Outcome, State

COLUMNS = ("wave", "host", "outcome", "before", "activation s", "turn s", "why")

LISTED = 20
"""Hosts that a summary names; a fleet's night has more lines than anybody reads."""


def rows(state: State) -> list[tuple[Any, ...]]:
    """One row a host, in the order of the plan; ``COLUMNS`` names the fields."""
    return [
        (
            number,
            name,
            outcome(state.hosts[name]),
            state.hosts[name].before,
            _seconds(state.hosts[name].activated_s),
            _seconds(turn_s(state.hosts[name])),
            state.hosts[name].reason,
        )
        for number, wave in enumerate(state.plan.waves, start=1)
        for name in wave
    ]


def turn_s(host: HostState) -> float | None:
    """Seconds from the host's start to its outcome."""
    if host.started_at is None or host.finished_at is None:
        return None
    return (datetime.fromisoformat(host.finished_at) - datetime.fromisoformat(host.started_at)).total_seconds()


def outcome(host: HostState) -> str:
    """How a host stands, in a word or two."""
    if host.outcome is not None:
        return str(host.outcome)
    return "unfinished" if host.started_at else "not started"


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f}"


def summary(state: State, *, running: bool = False) -> list[str]:
    """Counts, why it stopped or what it waits for, each host that is not well, and what to type next."""
    counts = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in sorted(state.count().items()))
    lines = [f"{state.plan.release.bundle}: {state.phase.replace('_', ' ')}. {counts or 'no host'}"]
    if state.stopped is not None:
        lines.append(f"  stopped: {state.stopped}")
    elif state.phase == "open" and state.waiting is not None:
        lines.append(f"  waiting since {state.waited_at}: {state.waiting[1]}")
    ready = ahead.staged(state)
    if ready and state.phase == "open" and state.stopped is None:
        lines.append(f"  staged ahead of their turn: {ready} of {len(state.plan.hosts)} host(s)")
    lines += _missing(state)
    following = next_step(state, running=running)
    return lines if following is None else [*lines, f"  next: {following}"]


def _missing(state: State) -> list[str]:
    missing = [name for name in state.plan.hosts if state.hosts[name].outcome not in GOOD]
    missing.sort(key=lambda name: _told_after(state.hosts[name]))
    lines = []
    for name in missing[:LISTED]:
        host = state.hosts[name]
        lines.append(f"  {name}: {outcome(host)}{': ' + host.reason if host.reason else ''}")
        if host.outcome is Outcome.LOST and "deadline" in host.reason:
            within = state.plan.policy.confirm_within_s
            lines.append(f"    next: it goes back by itself within {within} s of its activation; look at it then")
    if len(missing) > LISTED:
        lines.append(f"  and {len(missing) - LISTED} more: hedgerow rollout report")
    return lines


def _told_after(host: HostState) -> int:
    """Who failed comes first; then who went back with them; whoever never had a turn has nothing to tell."""
    if host.outcome is None and host.started_at is None:
        return 2
    return 1 if host.outcome in {Outcome.UNDONE, Outcome.SKIPPED} else 0


def next_step(state: State, *, running: bool) -> str | None:
    """What an operator types now; None where nothing is left to do."""
    if running:
        return None if state.stopped is not None else "hedgerow rollout watch"
    if state.lost:
        return "when the lost ones are back: hedgerow rollout resume"
    match state.phase:
        case "complete" | "rolled_back" | "superseded":
            return None
        case "open" if state.wave == 0 and ahead.staged(state):
            return "release it: hedgerow rollout resume"
        case "open":
            return "it was cut off; go on with it: hedgerow rollout resume"
    return _again(state)


def _again(state: State) -> str:
    """What to type after a rollout that ended with hosts missing."""
    skipped = state.outcomes.get(Outcome.SKIPPED, 0)
    if state.phase == "partial" and skipped:
        return f"{skipped} host(s) were passed over and get it with: hedgerow rollout resume"
    again = "mend what is named above, then run the same command again"
    ends = cooldown.ends(state, state.plan.policy.cooldown_s)
    return (
        again if ends is None else f"{again} (rule cooldown: from {ends:%Y-%m-%d %H:%M %Z} on, or with cooldown_s: 0)"
    )


def document(rollout: str, state: State) -> dict[str, Any]:
    """Everything about a rollout for ``--json``."""
    return {
        "id": rollout,
        "bundle": state.plan.release.bundle,
        "kind": state.plan.release.kind,
        "phase": state.phase,
        "opened_at": state.opened_at,
        "closed_at": state.closed_at,
        "by": state.by,
        "stopped": state.stopped,
        "paused": state.paused,
        "waiting": None if state.waiting is None else {"code": state.waiting[0], "reason": state.waiting[1]},
        "wave": state.wave,
        "approvals": {str(wave): names for wave, names in state.approvals.items()},
        "rolled_back": state.rolled_back,
        "superseded_by": state.superseded_by,
        "counts": state.count(),
        "held": [msgspec.to_builtins(held) for held in state.plan.held],
        "outside_limit": state.plan.outside_limit,
        "waves": state.plan.waves,
        "hosts": {name: msgspec.to_builtins(host) for name, host in state.hosts.items()},
    }


def line(event: events.Event) -> str:  # noqa: C901, PLR0911, PLR0912 - one line an event, one case each
    """An event in one line, without its time."""
    match event:
        case events.Opened():
            return f"{event.by} began to roll out {event.plan.release.bundle}"
        case events.Resumed():
            return f"{event.by} took it up again"
        case events.Surveyed():
            return f"{event.known} host(s) can go back to a version that the registry vouches for"
        case events.WaveOpened():
            return f"wave {event.number} begins: {len(event.hosts)} host(s)"
        case events.Waiting():
            return f"waiting: {event.reason}"
        case events.Rechecked():
            away = f", of which {len(event.away)} serve nobody" if event.away else ""
            return f"looked again at {event.hosts} host(s){away}"
        case events.HostPrepared():
            return f"{event.host}: fit, serves {event.before or 'nothing'}"
        case events.HostStarted():
            return f"{event.host}: its turn begins"
        case events.HostStaged():
            return f"{event.host}: staged in {event.seconds:.1f} s"
        case events.HostRetried():
            return f"{event.host}: try {event.attempt} failed, next in {event.after_s:g} s: {event.cause}"
        case events.HostActivated():
            return f"{event.host}: activated in {event.seconds:.1f} s"
        case events.HostJudged():
            return f"{event.host}: gate says {event.verdict}: {event.reason}"
        case events.HostFinished() | events.HostUndone() | events.HostResolved():
            return f"{event.host}: {event.outcome}: {event.reason}"
        case events.HostFell():
            return f"{event.host}: got worse after its confirmation: {event.reason}"
        case events.OperatorAsked():
            refused = "" if event.refused is None else f", refused: {event.refused}"
            wave = "" if event.request.wave is None else f" wave {event.request.wave}"
            return f"{event.request.by} asked: {event.request.kind}{wave}{refused}"
        case events.Stopped():
            return f"stopped: {event.reason}"
        case events.RolledBack():
            return f"rolled back: {event.reason}"
        case events.Superseded():
            return f"superseded by {event.by}"
        case events.Telling():
            return f"telling about {event.about} through {', '.join(event.through)}"
        case events.Notified(known=False):
            return f"told about {event.about} through {event.through}, which had not answered when the rollout ended"
        case events.Notified():
            failed = "" if event.failed is None else f", which failed: {event.failed}"
            return f"told about {event.about} through {event.through}{failed}"
        case events.Closed():
            return "ended in order"
