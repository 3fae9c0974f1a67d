"""A rollout as bars over time, from its journal's events. Pure: no drawing.

Up to ``HOSTS_SHOWN`` hosts each have a line of their own; above that a line is a wave, and its bars reach from the
first host's begin to the last one's end of each stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import pairwise

import msgspec

from hedgerow.rollout import events
from hedgerow.rollout.events import Event, Outcome

HOSTS_SHOWN = 200


class Stage(StrEnum):
    """What a host, or a rollout, is doing."""

    FETCH = "fetch"
    QUEUE = "queue"
    """It has the release, and waits for the others of its batch."""
    ACTIVATE = "activate"
    GATE = "gate"
    SETTLE = "settle"
    """Judged; to be confirmed, or to go back."""
    SERVE = "serve"
    BACK = "back"
    """It failed with the release, or was taken back; what follows is the version before."""
    LOST = "lost"


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """From ``begin`` to ``end`` in seconds since the rollout was opened."""

    stage: Stage
    begin: float
    end: float


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A host, or a wave where there are many. ``mark`` is its outcome, ``hosts`` how many it stands for."""

    name: str
    wave: int
    bars: list[Bar]
    mark: str = ""
    hosts: int = 1


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Something at one moment, or (``end``) a wait."""

    at: float
    text: str
    kind: str
    """``wave``, ``wait``, ``stop``, ``asked``, ``resumed``, or ``deadline``."""
    end: float | None = None


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """``seconds`` is the whole length."""

    seconds: float
    lines: list[Line]
    notes: list[Note]
    by_wave: bool = False


_BEGINS = {
    events.HostPrepared: Stage.FETCH,
    events.HostStaged: Stage.QUEUE,
    events.HostStarted: Stage.ACTIVATE,
    events.HostActivated: Stage.GATE,
    events.HostJudged: Stage.SETTLE,
    events.HostFell: Stage.SETTLE,
}
_BACK = frozenset({Outcome.REVERTED, Outcome.UNDONE, Outcome.ENVIRONMENT, Outcome.UNJUDGED})


def of(journal: Sequence[Event]) -> Timeline:
    """The timeline of a journal, which begins with its opening.

    Raises:
        ValueError: It does not.
    """
    if not journal or not isinstance(journal[0], events.Opened):
        raise ValueError("a journal begins with its opening")
    opened = journal[0]
    state = events.replay(journal)
    if state is None:
        raise ValueError("a journal begins with its opening")
    origin = datetime.fromisoformat(opened.at)
    times = [(datetime.fromisoformat(event.at) - origin).total_seconds() for event in journal]
    length = max(times)
    marks: dict[str, list[tuple[float, Stage | None]]] = {}
    for at, event in zip(times, journal, strict=True):
        stage, host = _stage(event), getattr(event, "host", None)
        if host is not None and (stage is not None or isinstance(event, events.HostFinished)):
            marks.setdefault(host, []).append((at, stage))
    waves = [(number, host) for number, wave in enumerate(state.plan.waves, start=1) for host in wave]
    lines = [
        Line(
            name=host,
            wave=number,
            bars=_bars(marks.get(host, []), length),
            mark=str(state.hosts[host].outcome or ("unfinished" if state.hosts[host].started_at else "")),
        )
        for number, host in waves
    ]
    by_wave = len(lines) > HOSTS_SHOWN
    return Timeline(
        seconds=length,
        lines=_by_wave(lines) if by_wave else lines,
        notes=_notes(list(zip(times, journal, strict=True)), length, state.plan.policy.confirm_within_s),
        by_wave=by_wave,
    )


def _stage(event: Event) -> Stage | None:
    """The stage that begins with ``event``; None: it begins none."""
    if isinstance(event, events.HostFinished | events.HostUndone | events.HostResolved):
        if event.outcome in {Outcome.CONFIRMED, Outcome.KEPT}:
            return Stage.SERVE
        if event.outcome is Outcome.LOST:
            return Stage.LOST
        return Stage.BACK if event.outcome in _BACK else None
    return _BEGINS.get(type(event))


def _bars(marks: list[tuple[float, Stage | None]], length: float) -> list[Bar]:
    ends = [*marks, (length, None)]
    return [Bar(stage=stage, begin=begin, end=end) for (begin, stage), (end, _) in pairwise(ends) if stage is not None]


def _by_wave(lines: Iterable[Line]) -> list[Line]:
    waves: dict[int, list[Line]] = {}
    for line in lines:
        waves.setdefault(line.wave, []).append(line)
    return [_together(number, part) for number, part in waves.items()]


def _together(number: int, lines: list[Line]) -> Line:
    counts: dict[str, int] = {}
    spans: dict[Stage, tuple[float, float]] = {}
    for line in lines:
        counts[line.mark or "not started"] = counts.get(line.mark or "not started", 0) + 1
        for bar in line.bars:
            begin, end = spans.get(bar.stage, (bar.begin, bar.end))
            spans[bar.stage] = (min(begin, bar.begin), max(end, bar.end))
    mark = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    bars = [Bar(stage=stage, begin=spans[stage][0], end=spans[stage][1]) for stage in Stage if stage in spans]
    return Line(name=f"wave {number}", wave=number, bars=bars, mark=mark, hosts=len(lines))


_ENDS_A_WAIT = (events.WaveOpened, events.Waiting, events.Stopped, events.Closed)


def _notes(journal: Sequence[tuple[float, Event]], length: float, confirm_within_s: int) -> list[Note]:
    notes = [note for at, event in journal if (note := _note(at, event)) is not None]
    return [*notes, *_waits(journal, length), *_deadlines(journal, length, confirm_within_s)]


def _note(at: float, event: Event) -> Note | None:
    match event:
        case events.WaveOpened():
            return Note(at=at, text=f"wave {event.number}", kind="wave")
        case events.Stopped():
            return Note(at=at, text=event.reason, kind="stop")
        case events.OperatorAsked():
            return Note(at=at, text=f"{event.request.by}: {event.request.kind}", kind="asked")
        case events.Resumed():
            return Note(at=at, text=f"gone on with by {event.by}", kind="resumed")
    return None


def _waits(journal: Sequence[tuple[float, Event]], length: float) -> list[Note]:
    notes: list[Note] = []
    waiting: tuple[float, str] | None = None
    for at, event in [*journal, (length, None)]:
        if waiting is not None and (event is None or isinstance(event, _ENDS_A_WAIT)):
            notes.append(Note(at=waiting[0], end=at, text=waiting[1], kind="wait"))
            waiting = None
        if isinstance(event, events.Waiting):
            waiting = (at, event.reason)
    return notes


def _deadlines(journal: Sequence[tuple[float, Event]], length: float, confirm_within_s: int) -> list[Note]:
    """When devices that nobody confirmed went back by themselves."""
    due: dict[str, float] = {}
    for at, event in journal:
        if isinstance(event, events.HostActivated):
            due[event.host] = at + confirm_within_s
        elif isinstance(event, events.HostFinished | events.HostUndone) and event.outcome is not Outcome.LOST:
            due.pop(event.host, None)
    return [
        Note(at=at, text=f"{host} goes back by itself", kind="deadline") for host, at in due.items() if at <= length
    ]
