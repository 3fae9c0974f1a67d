"""A rollout as one page that needs nothing else: counts first, then why, then the picture, then every host."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

import jinja2

from hedgerow.rollout import events, picture, report, timeline
from hedgerow.rollout.events import Event, HostState, State

ROWS_SHOWN = 500
"""Hosts in the table; those that are not well come first, and all are in ``--json`` and in the evidence."""
LINES_SHOWN = 400
"""Last lines of the journal on the page."""

CAUSES_SHOWN = 6
"""Hosts that failed, named above the picture."""

WELL = frozenset({"confirmed", "already"})
UNHURT = frozenset({"not_started", "skipped", "undone"})
"""Neither well nor a reason to look at the host."""
_CAUSES = picture.TROUBLED | {"refused", "unfinished"}


def render(rollout: str, journal: Sequence[Event]) -> str:
    """The page of a rollout; ``journal`` as ``Journal.events`` reads it.

    Raises:
        ValueError: The journal says nothing yet.
    """
    state = events.replay(journal)
    if state is None:
        raise ValueError(f"the journal of {rollout} is empty")
    line = timeline.of(journal)
    rows = _rows(state)
    return _template().render(
        rollout=rollout,
        state=state,
        plan=state.plan,
        policy=state.plan.policy,
        phase=state.phase.replace("_", " "),
        tone=_tone(state),
        counts=_counts(state),
        why=_why(state),
        causes=_causes(state),
        following=report.next_step(state, running=False),
        began=_clock(state.opened_at),
        took=picture.span(line.seconds),
        picture=picture.draw(line),
        by_wave=line.by_wave,
        legend=[(str(stage), text, picture.LETTERS[stage]) for stage, text in picture.LEGEND.items()],
        rows=rows[:ROWS_SHOWN],
        left_out=max(0, len(rows) - ROWS_SHOWN),
        lines=[(event.at, report.line(event)) for event in journal[-LINES_SHOWN:]],
        earlier=max(0, len(journal) - LINES_SHOWN),
        span=picture.span,
        figure=_figure,
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hedgerow.rollout", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _why(state: State) -> str | None:
    if state.stopped is not None:
        return f"Stopped: {state.stopped}."
    if state.phase == "open" and state.waiting is not None:
        return f"Waits: {state.waiting[1]}."
    if state.superseded_by is not None:
        return f"{state.superseded_by} came instead."
    return None


def _causes(state: State) -> list[tuple[str, str, str]]:
    """Hosts that failed themselves, not those that went back with them: name, outcome, reason."""
    names = [name for name in state.plan.hosts if str(state.hosts[name].outcome) in _CAUSES]
    return [(name, report.outcome(state.hosts[name]), state.hosts[name].reason) for name in names[:CAUSES_SHOWN]]


def _tone(state: State) -> str:
    if state.phase == "complete":
        return "good"
    return "bad" if state.phase in {"stopped", "rolled_back"} else "plain"


def _counts(state: State) -> list[tuple[int, str, str]]:
    """Number, name and tone; what is not well first."""
    found = []
    for name, number in state.count().items():
        tone = "good" if name in WELL else "plain" if name in UNHURT else "bad"
        found.append((number, name.replace("_", " "), tone))
    order = {"bad": 0, "good": 1, "plain": 2}
    return sorted(found, key=lambda each: (order[each[2]], -each[0]))


def _clock(at: str) -> str:
    return f"{datetime.fromisoformat(at):%Y-%m-%d %H:%M:%S} UTC"


def _rows(state: State) -> list[dict[str, Any]]:
    rows = [
        _row(name, number, state.hosts[name]) for number, wave in enumerate(state.plan.waves, start=1) for name in wave
    ]
    return sorted(rows, key=lambda row: row["order"])


def _row(name: str, wave: int, host: HostState) -> dict[str, Any]:
    outcome = report.outcome(host)
    untouched = host.outcome is None and host.started_at is None
    turn = report.turn_s(host)
    return {
        "name": name,
        "wave": wave,
        "outcome": outcome.replace("_", " "),
        "tone": "good" if outcome in WELL else "plain" if untouched or outcome in UNHURT else "bad",
        # Who failed comes first, then the others, then those who never had a turn.
        "order": 3 if untouched else 2 if outcome in WELL else 1 if outcome in UNHURT else 0,
        "before": host.before,
        "activated": None if host.activated_s is None else picture.span(host.activated_s),
        "turn": None if turn is None else picture.span(turn),
        "verdict": host.verdict,
        "reason": host.reason,
        "criteria": host.criteria,
        "metrics": [
            (metric, host.metrics_before.get(metric), host.metrics_after.get(metric))
            for metric in sorted(host.metrics_before.keys() | host.metrics_after.keys())
        ],
    }


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
