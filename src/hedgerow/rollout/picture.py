"""Geometry of a timeline's SVG: what goes where, in the picture's own units. Pure; the template draws it."""

from __future__ import annotations

from typing import NamedTuple

from hedgerow.rollout.timeline import Bar, Line, Note, Stage, Timeline

WIDTH, LEFT, RIGHT, ROW, TOP, TRACK = 1000.0, 150.0, 30.0, 18.0, 46.0, 11.0
_SHORT = 22
"""Letters of a host's name that fit beside its line."""
_LETTER_FROM = 14.0
"""A bar as wide as this carries its stage's letter."""

LETTERS = {
    Stage.FETCH: "F",
    Stage.QUEUE: "",
    Stage.ACTIVATE: "A",
    Stage.GATE: "G",
    Stage.SETTLE: "",
    Stage.SERVE: "",
    Stage.BACK: "B",
    Stage.LOST: "?",
}
LEGEND = {
    Stage.FETCH: "fetches and verifies",
    Stage.QUEUE: "waits for its batch",
    Stage.ACTIVATE: "tries and switches",
    Stage.GATE: "is watched by the gate",
    Stage.SETTLE: "judged",
    Stage.SERVE: "serves the release",
    Stage.BACK: "back on the version before",
    Stage.LOST: "lost",
}


TROUBLED = frozenset({"reverted", "kept", "lost", "environment", "unjudged", "unreachable"})
"""Outcomes of hosts that somebody has to look at; in a wave's line any of them counts."""


class Box(NamedTuple):
    """A bar: left, top, width, and what is said of it."""

    x: float
    y: float
    width: float
    stage: str
    letter: str
    title: str


class Label(NamedTuple):
    """A line's name and outcome; ``shade``: every other wave has a ground of its own; ``bad``: it failed."""

    y: float
    name: str
    full: str
    mark: str
    shade: bool
    bad: bool


class Mark(NamedTuple):
    """A note: an upright at ``x``, or a band of ``width``."""

    x: float
    width: float
    kind: str
    text: str
    label: str


class Tick(NamedTuple):
    """A time on the axis."""

    x: float
    text: str


class Picture(NamedTuple):
    """Everything that the template draws."""

    width: float
    height: float
    left: float
    bottom: float
    track: float
    row: float
    boxes: list[Box]
    labels: list[Label]
    marks: list[Mark]
    ticks: list[Tick]


def draw(timeline: Timeline) -> Picture:
    """Lay a timeline out."""
    seconds = max(timeline.seconds, 1.0)
    scale = (WIDTH - LEFT - RIGHT) / seconds
    bottom = TOP + ROW * len(timeline.lines)
    boxes = [_box(line, bar, TOP + ROW * row, scale) for row, line in enumerate(timeline.lines) for bar in line.bars]
    labels = [
        Label(
            TOP + ROW * row,
            _short(line.name),
            line.name,
            line.mark.replace("_", " "),
            line.wave % 2 == 0,
            _troubled(line),
        )
        for row, line in enumerate(timeline.lines)
    ]
    marks = [_mark(note, scale) for note in timeline.notes]
    return Picture(
        WIDTH, bottom + 24, LEFT, bottom, TRACK, ROW, boxes, labels, _uncrowded(marks), _ticks(seconds, scale)
    )


def span(seconds: float) -> str:
    """A length of time in words as short as can be: ``12 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    if minutes:
        return f"{minutes} min {rest:02d} s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"  # noqa: PLR2004 - tenths below ten


def _box(line: Line, bar: Bar, y: float, scale: float) -> Box:
    width = max((bar.end - bar.begin) * scale, 1.2)
    letter = LETTERS[bar.stage] if width >= _LETTER_FROM else ""
    title = f"{line.name}: {LEGEND[bar.stage]}, {span(bar.end - bar.begin)} from {span(bar.begin)} on"
    return Box(round(LEFT + bar.begin * scale, 2), y, round(width, 2), str(bar.stage), letter, title)


def _mark(note: Note, scale: float) -> Mark:
    width = 0.0 if note.end is None else round((note.end - note.at) * scale, 2)
    return Mark(round(LEFT + note.at * scale, 2), width, note.kind, f"{note.text} (at {span(note.at)})", note.text)


def _uncrowded(marks: list[Mark]) -> list[Mark]:
    """The same; a label that would stand on another is left to the mark's title."""
    kept: list[Mark] = []
    free = {"wave": LEFT - 50, "other": LEFT - 50}
    for mark in sorted(marks, key=lambda each: each.x):
        lane = "wave" if mark.kind == "wave" else "other"
        label = {"wave": mark.label, "stop": "stopped", "wait": "waits", "deadline": "deadline"}.get(
            mark.kind, mark.label
        )
        wide = 6.2 * len(label) + 8
        shown = mark.x >= free[lane] and mark.x + wide <= WIDTH + 40
        if shown:
            free[lane] = mark.x + wide
        kept.append(mark._replace(label=label if shown else ""))
    return kept


_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400)


def _ticks(seconds: float, scale: float) -> list[Tick]:
    step = next((each for each in _STEPS if seconds / each <= 8), 86400 * max(1, round(seconds / 86400 / 8)))  # noqa: PLR2004 - as many as are read at a glance
    return [Tick(round(LEFT + at * scale, 2), _axis(at)) for at in range(0, int(seconds) + 1, step)]


def _axis(at: int) -> str:
    """``0``, ``30 s``, ``1:30``, ``2:05:00``: short, since many stand side by side."""
    if at < 60:  # noqa: PLR2004 - a minute
        return f"{at} s" if at else "0"
    hours, minutes, rest = at // 3600, at // 60 % 60, at % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d} min"


def _troubled(line: Line) -> bool:
    return any(word in TROUBLED for word in line.mark.replace(",", " ").split())


def _short(name: str) -> str:
    return name if len(name) <= _SHORT else name[: _SHORT - 1] + "…"
