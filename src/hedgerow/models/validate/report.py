"""What a comparison found, as a folder to read (``report.md`` with pictures) and as data (``validation.json``)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version as tool_version
from pathlib import Path
from typing import Any, Final

from hedgerow import atomic
from hedgerow.models.validate.compare import Comparison
from hedgerow.models.validate.thresholds import METRICS, Judgement

FILE_NAME: Final = "validation.json"
_TOOLS: Final = ("numpy", "onnxruntime", "rouge-score", "sacrebleu")
_MOST_ANSWERS: Final = 20


@dataclass(frozen=True)
class Outcome:
    """A finished validation. ``new`` and ``reference`` are labels; ``probe_sha256`` of the probe's content."""

    new: str
    reference: str
    probe_sha256: str
    comparison: Comparison
    judgements: tuple[Judgement, ...]

    @property
    def missed(self) -> list[Judgement]:
        return [each for each in self.judgements if not each.met]


def as_data(outcome: Outcome) -> dict[str, Any]:
    """Everything but the plots' series. JSON has no NaN: such a figure is the text ``nan``."""
    comparison = outcome.comparison
    return {
        "schema": 1,
        "new": outcome.new,
        "reference": outcome.reference,
        "probe_sha256": outcome.probe_sha256,
        "rows": comparison.rows,
        "measured": {name: _number(value) for name, value in sorted(comparison.measured.items())},
        "by_output": {
            output: {name: _number(value) for name, value in sorted(figures.items())}
            for output, figures in sorted(comparison.by_output.items())
        },
        "limits": [
            {"metric": each.metric, "min": each.limit.min, "max": each.limit.max, "value": _number(each.value),
             "met": each.met}
            for each in outcome.judgements
        ],
        "met": not outcome.missed,
        "tools": {name: tool_version(name) for name in _TOOLS},
    }  # fmt: skip


def encoded(outcome: Outcome) -> bytes:
    """``validation.json``: sorted keys, a final newline."""
    return json.dumps(as_data(outcome), indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def write(outcome: Outcome, folder: Path) -> Path:
    """Write ``report.md``, its pictures and ``validation.json`` into ``folder``; return the report's path."""
    from hedgerow.models.validate.plots import draw  # matplotlib takes half a second

    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw(outcome.comparison, folder)
    atomic.write_bytes(folder / FILE_NAME, encoded(outcome))
    report = folder / "report.md"
    atomic.write_text(report, _markdown(outcome, pictures))
    return report


def _markdown(outcome: Outcome, pictures: Sequence[str]) -> str:
    comparison, missed = outcome.comparison, outcome.missed
    verdict = f"**{len(missed)} of {len(outcome.judgements)} limits missed.**" if missed else "All limits met."
    lines = [f"# {outcome.new} against {outcome.reference}", "", verdict, ""]
    lines += [f"* {each}" for each in missed] + ([""] if missed else [])
    limits = {each.metric: each for each in outcome.judgements}
    lines += _table(
        ("metric", "value", "limit", "", "what it is"),
        (
            (name, _shown(comparison.measured.get(name)), str(limits[name].limit) if name in limits else "",
             "" if name not in limits else ("met" if limits[name].met else "**missed**"), METRICS[name])
            for name in METRICS
            if name in comparison.measured or name in limits
        ),
    )  # fmt: skip
    if len(comparison.by_output) > 1:
        names = sorted({name for figures in comparison.by_output.values() for name in figures})
        lines += ["## By output", ""]
        rows = (
            (output, *(_shown(figures.get(name)) for name in names)) for output, figures in comparison.by_output.items()
        )
        lines += _table(("output", *names), rows)
    lines += [f"![{Path(name).stem}]({name})\n" for name in pictures]
    if comparison.answers:
        lines += ["## Answers", ""]
        lines += _table(
            ("asked", "new", "reference", ""),
            (
                (each.ask, each.new, each.reference, {None: "", True: "passed", False: "**failed**"}[each.passed])
                for each in comparison.answers[:_MOST_ANSWERS]
            ),
        )
    lines += [f"Probe: {comparison.rows} rows, sha256 {outcome.probe_sha256}.", ""]
    return "\n".join(lines)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    body = [" | ".join(_cell(each) for each in row) for row in rows]
    return [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *(f"| {row} |" for row in body), ""]


def _cell(text: str) -> str:
    """Text of a model in a Markdown table: no line breaks, no bars, no markup."""
    plain = text.replace("|", "\\|").replace("<", "&lt;")
    return " ".join(plain.split())


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.6g}"


def _number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)
