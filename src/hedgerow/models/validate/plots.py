"""Pictures of a comparison. No pyplot: it keeps state, and asks for a screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from hedgerow.models.validate.compare import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOUR: Final = "#3b6ea5"
_SIZE: Final = (7.0, 4.0)
_BINS: Final = 40


def draw(comparison: Comparison, folder: Path) -> list[str]:
    """Write the pictures that there are figures for; return their file names."""
    pictures: dict[str, Callable[[Axes], None]] = {}
    series = comparison.series
    if series.get("cosine"):
        pictures["cosine.png"] = lambda axes: _closeness(axes, series["cosine"])
    if series.get("new"):
        pictures["values.png"] = lambda axes: _scatter(axes, series["new"], series["reference"])
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
    axes.hist(gaps, bins=edges.tolist(), color=_COLOUR)
    axes.set_xscale("log")
    axes.set_xlabel("1 - cosine to the reference (left is closer)")
    axes.set_ylabel("rows")
    lost = values.size - gaps.size
    axes.set_title(
        f"Distance of {values.size} rows from the reference" + (f", {lost} of them not finite" if lost else ""),
        loc="left",
    )


def _scatter(axes: Axes, new: list[float], reference: list[float]) -> None:
    pairs = np.array([reference, new])
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    axes.scatter(pairs[0], pairs[1], s=6, alpha=0.5, linewidths=0, color=_COLOUR)
    if pairs.size:
        ends = [float(pairs.min()), float(pairs.max())]
        axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.set_xlabel("reference")
    axes.set_ylabel("new build")
    axes.set_title("Values of the outputs; on the line they are equal", loc="left")
