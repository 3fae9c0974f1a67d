"""A rollout in words and figures. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from hedgerow.rollout.events import GOOD, HostState, Outcome, State

COLUMNS = ("wave", "host", "outcome", "before", "activation s", "turn s", "why")


def rows(state: State) -> list[tuple[Any, ...]]:
    """One row a host, in the order of the plan; ``COLUMNS`` names the fields."""
    return [
        (
            number,
            name,
            _outcome(state.hosts[name]),
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


def _outcome(host: HostState) -> str:
    if host.outcome is not None:
        return str(host.outcome)
    return "unfinished" if host.started_at else "not started"


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f}"


def summary(state: State) -> list[str]:
    """The end of a run in a few lines: counts, why it stopped, and what to do about each host that is not well."""
    counts = ", ".join(f"{number} {outcome.replace('_', ' ')}" for outcome, number in sorted(state.count().items()))
    lines = [f"{state.plan.release.bundle}: {state.phase}. {counts or 'no host'}"]
    if state.stopped is not None:
        lines.append(f"  stopped: {state.stopped}")
    for name in state.plan.hosts:
        host = state.hosts[name]
        if host.outcome in GOOD:
            continue
        lines.append(f"  {name}: {_outcome(host)}{': ' + host.reason if host.reason else ''}")
        if host.outcome is Outcome.LOST:
            within = state.plan.policy.confirm_within_s
            lines.append(f"    next: it goes back by itself within {within} s of its activation; look at it then")
    if not state.complete:
        lines.append("  next: mend what is named above, then run the same command again")
    return lines


def document(rollout: str, state: State) -> dict[str, Any]:
    """Everything about a rollout for ``--json``."""
    return {
        "id": rollout,
        "bundle": state.plan.release.bundle,
        "phase": state.phase,
        "opened_at": state.opened_at,
        "closed_at": state.closed_at,
        "by": state.by,
        "stopped": state.stopped,
        "counts": state.count(),
        "held": [msgspec.to_builtins(held) for held in state.plan.held],
        "outside_limit": state.plan.outside_limit,
        "waves": state.plan.waves,
        "hosts": {name: msgspec.to_builtins(host) for name, host in state.hosts.items()},
    }
