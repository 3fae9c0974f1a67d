"""Whether a host became slower by more than hosts without the release did in the same time. Pure.

Difference in differences. An *answer's change* is the logarithm of how many times longer it took after than before. Of
each question that a host was asked on both sides, answers are paired in their order (the longer side in as many parts
as the shorter has answers, a part's median for each), so that neither long questions nor a board's own speed count. The
changes of the host are held to those of the others, one-sided, with the Mann-Whitney U test.

What it supposes:

- *Parallel trends*: without the release the host would have changed as the others did. A load, a link or an hour that
  hits all of them alike is not the release's doing; what hits this board alone is (``board`` asks what the board says).
- Changes of one side can be exchanged with one another. Answers that follow one another on a busy board cannot quite.

The release is blamed only where all hold: the comparison with the time before, this test, and the policy's ratio over
what the others' change leaves of the baseline. That all tests must reject makes no new false alarms (Berger, below), so
``alpha`` is as it was. ``SHIFT_ALPHA`` is the chance of blame *given* that something hit all hosts in that moment.

Without others to hold it to, the breach must show in the first and in the second half of the answers, so that a burst
which ends within the soak, or begins late in it, blames nobody.

Sources:

- D. Card, A. B. Krueger, "Minimum Wages and Employment", American Economic Review 84 (1994), 772-793; J. D. Angrist,
  J.-S. Pischke, "Mostly Harmless Econometrics" (2009), section 5.2: differences in differences, parallel trends.
- H. B. Mann, D. R. Whitney (1947), as in ``statistics``.
- R. L. Berger, "Multiparameter Hypothesis Testing and Acceptance Sampling", Technometrics 24 (1982), 295-300: a test
  that rejects only where each of several does has at most the level of any of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, starmap
from typing import Final, NamedTuple

from hedgerow.rollout.gate import statistics
from hedgerow.rollout.gate.samples import Window, value_of
from hedgerow.rollout.gate.statistics import percentile
from hedgerow.rollout.policy.gate import LESS_IS_WORSE, Metric

SHIFT_ALPHA: Final = 0.01
"""Chance that a host is failed by its comparisons with the time before although all hosts became slower alike at the
moment of its activation, over all of them and all looks."""
PAIRS: Final = 8
"""Changes of others under which they say nothing; as many as ``policy.gate.MINIMUM_SAMPLES``."""


class Control(NamedTuple):
    """What one host without the release answered before the activation, and since."""

    before: Window
    after: Window


class Shift(NamedTuple):
    """``factor``: how many times longer the others' answers take now, 1 at the least; ``p`` of the test."""

    factor: float
    p: float
    pairs: int


def changes(before: Window, after: Window, metric: Metric) -> list[float]:
    """The logarithm of each pair's ratio, larger the worse it became; nothing where answers have no question."""
    ours, theirs = _by_question(after, metric), _by_question(before, metric)
    found: list[float] = []
    for question, later in ours.items():
        earlier = theirs.get(question, [])
        parts = min(len(earlier), len(later))
        pairs = zip(_medians(earlier, parts), _medians(later, parts), strict=True)
        found += starmap(_log_ratio, pairs)
    return [-change for change in found] if metric in LESS_IS_WORSE else found


def measured(before: Window, after: Window, controls: Sequence[Control], metric: Metric) -> Shift | None:
    """What the others say of a host's change; None where they are, or it is, without enough answers on both sides."""
    theirs = [change for each in controls for change in changes(each.before, each.after, metric)]
    ours = changes(before, after, metric)
    if len(theirs) < PAIRS or not ours:
        return None
    middle = percentile(theirs, 0.5) or 0.0
    # That others became faster makes nobody slower.
    return Shift(math.exp(max(0.0, middle)), statistics.mann_whitney(theirs, ours), len(theirs))


def halves(samples: Sequence[float], metric: Metric) -> tuple[float, float]:
    """The metric's figure in the first and in the second half of ``samples``, which are in the order of time."""
    middle = len(samples) // 2
    return value_of(metric, samples[:middle]) or 0.0, value_of(metric, samples[middle:]) or 0.0


def _by_question(window: Window, metric: Metric) -> dict[int, list[float]]:
    samples = window.column(metric)
    if len(samples) != len(window.questions):
        return {}
    found: dict[int, list[float]] = {}
    for question, value in zip(window.questions, samples, strict=True):
        if value > 0:
            found.setdefault(question, []).append(value)
    return found


def _medians(values: Sequence[float], parts: int) -> list[float]:
    """Medians of ``parts`` stretches of ``values``, as even as can be."""
    cuts = [len(values) * part // parts for part in range(parts + 1)] if parts else []
    return [percentile(values[begin:end], 0.5) or 0.0 for begin, end in pairwise(cuts)]


def _log_ratio(earlier: float, later: float) -> float:
    return math.log(later / earlier)
