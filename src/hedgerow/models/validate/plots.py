"""Pictures of a comparison. No pyplot: it keeps state, and asks for a screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from hedgerow.models.validate.compare import Comparison
from hedgerow.models.validate.thresholds import Judgement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GOOD, _BAD, _PLAIN = "#2e7d4f", "#b3372f", "#3b6ea5"
_SIZE: Final = (7.0, 4.0)
_BINS: Final = 40
_MOST_LABELS: Final = 12


def draw(comparison: Comparison, judgements: list[Judgement], folder: Path) -> list[str]:
    """Write the pictures that there are figures for; return their file names."""
    pictures: dict[str, Callable[[Axes], None]] = {}
    series = comparison.series
    if series.get("cosine"):
        pictures["cosine.png"] = lambda axes: _closeness(axes, series["cosine"])
    if series.get("new"):
        pictures["values.png"] = lambda axes: _scatter(axes, series["new"], series["reference"])
    if judgements:
        pictures["limits.png"] = lambda axes: _limits(axes, judgements)
    for name, picture in pictures.items():
        _save(folder / name, picture)
    return list(pictures)


def _save(path: Path, picture: Callable[[Axes], None]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    picture(axes)
    # Without matplotlib's own "Software" entry the same figures give the same bytes on the next version too.
    figure.savefig(path, format="png", metadata={"Software": None})


def _closeness(axes: Axes, cosines: list[float]) -> None:
    """How many rows are how far from the reference; the axis is 1 - cosine, logarithmic, because all are near 1."""
    values = np.asarray(cosines)
    gaps = np.clip(1 - values[np.isfinite(values)], 1e-12, 2)
    low, high = (gaps.min(), gaps.max()) if gaps.size else (1e-12, 1.0)
    edges = np.logspace(np.log10(low) - 0.2, np.log10(high) + 0.2, _BINS)
    axes.hist(gaps, bins=edges.tolist(), color=_PLAIN)
    axes.set_xscale("log")
    axes.set_xlabel("1 - cosine to the reference (left is closer)")
    axes.set_ylabel("rows")
    lost = values.size - gaps.size
    axes.set_title(f"{values.size} rows" + (f", {lost} of them not finite" if lost else ""), loc="left")


def _scatter(axes: Axes, new: list[float], reference: list[float]) -> None:
    pairs = np.array([reference, new])
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    axes.scatter(pairs[0], pairs[1], s=6, alpha=0.5, linewidths=0, color=_PLAIN)
    if pairs.size:
        ends = [float(pairs.min()), float(pairs.max())]
        axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.set_xlabel("reference")
    axes.set_ylabel("new build")
    axes.set_title("Values of the outputs; on the line they are equal", loc="left")


def _limits(axes: Axes, judgements: list[Judgement]) -> None:
    """One line a limit, named with its figures: they have different units, so only met or missed is drawn."""
    shown = judgements[:_MOST_LABELS][::-1]
    axes.barh(range(len(shown)), [1.0] * len(shown), color=[_GOOD if each.met else _BAD for each in shown], height=0.7)
    for place, each in enumerate(shown):
        text = f"{'met' if each.met else 'MISSED'}: {each}"
        axes.text(0.01, place, text, va="center", ha="left", color="white", fontsize=9, wrap=False)
    axes.set_xlim(0, 1)
    axes.set_yticks([])
    axes.set_xticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    missed = sum(not each.met for each in judgements)
    axes.set_title(f"{len(judgements) - missed} of {len(judgements)} limits met", loc="left")
