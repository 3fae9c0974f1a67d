"""Comparisons with the host before its activation, and with hosts that do not have the release. Pure.

- A comparison is breached when the ratio is **and** the test is: a difference of a tenth that a thousand samples prove
  harms nobody, and one of half that three samples show is chance.
- Answers are compared question by question: only questions that were put on both sides count, for a long one takes
  longer on any version.
- A report gives one figure and no samples: there the ratio alone decides, at every look.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hedgerow.rollout.gate import statistics
from hedgerow.rollout.gate.findings import UNTESTED, Finding, Sight, errors_of, errors_since, gauge, last, stage_of
from hedgerow.rollout.gate.limits import too_few
from hedgerow.rollout.gate.samples import Window, value_of
from hedgerow.rollout.gate.verdicts import Standing
from hedgerow.rollout.policy.gate import LESS_IS_WORSE, Condition, Metric


def compared(condition: Condition, sight: Sight, key: str) -> Finding:
    """Judge a ``worse_by``. ``key`` names the condition in the window's notes of tests."""
    if not condition.tested:
        return _compared_gauge(condition, sight)
    if condition.metric is Metric.ERROR_RATIO:
        return _compared_errors(condition, sight, key)
    return _compared(condition, sight, key)


def _other(condition: Condition, sight: Sight) -> Window | None:
    return sight.before if condition.against == "before" else sight.untouched


def _nothing(condition: Condition, why: str) -> Finding:
    return Finding(Standing.SKIPPED, f"{condition.subject}: {why}")


def _missing(condition: Condition) -> Finding:
    if condition.against == "before":
        return _nothing(condition, "nothing was measured before the activation")
    return _nothing(condition, "no untouched host is left to compare it with")


def _ratio(condition: Condition, value: float, baseline: float) -> float:
    """How many times worse; infinite where nothing was wrong before."""
    high, low = (baseline, value) if condition.metric in LESS_IS_WORSE else (value, baseline)
    if low > 0:
        return high / low
    return 1.0 if high <= 0 else float("inf")


def _compared_gauge(condition: Condition, sight: Sight) -> Finding:
    """By ratio alone: a report gives one figure, not samples."""
    value, why = gauge(condition, sight.look)
    baseline, _ = gauge(condition, last(_other(condition, sight)))
    if value is None:
        return Finding(Standing.NO_DATA, f"{condition.subject}: {why}")
    if baseline is None:
        return _missing(condition)
    return _by_ratio(condition, value, baseline, n=None, n_baseline=None)


def _by_ratio(
    condition: Condition,
    value: float,
    baseline: float,
    *,
    n: int | None,
    n_baseline: int | None,
    p: float | None = None,
) -> Finding:
    found = f"{condition.subject} is {value:.4g}, {_ratio(condition, value, baseline):.2f} times worse than"
    tested = "" if p is None else f", p = {p:.2g}, {n} and {n_baseline} samples"
    return Finding(
        Standing.BREACH if _is_worse(condition, value, baseline) else Standing.PASS,
        f"{found} {baseline:.4g} {_whose(condition)} (limit {condition.worse_by:g}{tested})",
        value,
        _limit(condition, baseline),
        baseline,
        p,
        n,
        n_baseline,
    )


def _is_worse(condition: Condition, value: float, baseline: float) -> bool:
    """Whether it is worse by the ratio, and by as much as the condition asks for beside it."""
    worse = _ratio(condition, value, baseline) >= (condition.worse_by or 1.0)
    return worse and (condition.and_by is None or abs(value - baseline) >= condition.and_by)


def _limit(condition: Condition, baseline: float) -> float:
    """The value from which on it is breached."""
    worst, by = condition.worse_by or 1.0, condition.and_by or 0.0
    if condition.metric in LESS_IS_WORSE:
        return min(baseline / worst, baseline - by)
    return max(baseline * worst, baseline + by)


def _whose(condition: Condition) -> str:
    return "before" if condition.against == "before" else "on untouched hosts"


def _compared(condition: Condition, sight: Sight, key: str) -> Finding:
    metric, other = condition.metric, _other(condition, sight)
    if metric is None or other is None:
        return _missing(condition)
    ours, theirs = _alike(sight.after, other, metric)
    lack = _lack(condition, metric, sight.after, len(ours), len(theirs))
    if lack is not None:
        return lack
    stage = stage_of(sight, key, len(ours), condition.samples)
    if stage is None:
        return UNTESTED
    count, alpha = stage
    ours = ours[:count]
    value, baseline = value_of(metric, ours) or 0.0, value_of(metric, theirs) or 0.0
    # The ratio is cheap and mostly not reached; an interim test need not be made then.
    if not sight.final and not _is_worse(condition, value, baseline):
        return UNTESTED
    better, worse = (ours, theirs) if metric in LESS_IS_WORSE else (theirs, ours)
    p = statistics.mann_whitney(better, worse)
    found = _by_ratio(condition, value, baseline, n=len(ours), n_baseline=len(theirs), p=p)
    return found if p <= alpha else msgspec.structs.replace(found, standing=Standing.PASS)


def _lack(condition: Condition, metric: Metric, after: Window, ours: int, theirs: int) -> Finding | None:
    """Why two groups of this size are not compared yet, or at all; None: they are."""
    minimum = condition.samples
    if theirs < minimum:
        few = f"{condition.subject}: {theirs} of {minimum} samples {_whose(condition)}"
        # Nothing more will come from before the activation.
        if condition.against == "before":
            return Finding(Standing.SKIPPED, few, n=ours, n_baseline=theirs)
        return Finding(Standing.NO_DATA, few, n=ours, n_baseline=theirs, comes=True)
    return too_few(condition, metric, after, ours) if ours < minimum else None


def _alike(after: Window, other: Window, metric: Metric) -> tuple[Sequence[float], Sequence[float]]:
    """The samples on both sides of questions that both were asked, in the order in which they came."""
    ours, theirs = after.column(metric), other.column(metric)
    if len(ours) != len(after.questions) or len(theirs) != len(other.questions):
        return ours, theirs
    common = set(after.questions)
    asked = set(other.questions)
    if common == asked:
        return ours, theirs
    common &= asked
    return (
        [value for value, question in zip(ours, after.questions, strict=True) if question in common],
        [value for value, question in zip(theirs, other.questions, strict=True) if question in common],
    )


def _compared_errors(condition: Condition, sight: Sight, key: str) -> Finding:
    other = _other(condition, sight)
    if other is None:
        return _missing(condition)
    errors, requests = errors_since(sight)
    theirs, of = errors_of(other)
    minimum = condition.samples
    if of < minimum:
        return _nothing(condition, f"only {of} of {minimum} requests {_whose(condition)}")
    if requests < minimum:
        return Finding(Standing.NO_DATA, f"error_ratio: {requests} of {minimum} requests", n=requests, comes=True)
    stage = stage_of(sight, key, requests, minimum)
    if stage is None:
        return UNTESTED
    p = statistics.fisher(theirs, of, errors, requests)
    found = _by_ratio(condition, errors / requests, theirs / of, n=requests, n_baseline=of, p=p)
    return found if p <= stage[1] else msgspec.structs.replace(found, standing=Standing.PASS)
