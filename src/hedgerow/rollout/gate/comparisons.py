"""Comparisons with the host before its activation, and with hosts that do not have the release. Pure.

- A comparison is breached when the ratio is **and** the test is: a difference of a tenth that a thousand samples prove
  harms nobody, and one of half that three samples show is chance.
- Answers are compared question by question: only questions that were put on both sides count, for a long one takes
  longer on any version.
- A report gives one figure and no samples: there the ratio alone decides, at every look.
- What became slower than before is the release's doing only as far as hosts without it did not become slower, too, in
  the same time (``shift``). Where none can be asked, the breach must show in both halves of the answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from hedgerow.rollout.gate import shift, statistics
from hedgerow.rollout.gate.findings import UNTESTED, Finding, Sight, errors_of, errors_since, gauge, last, stage_of
from hedgerow.rollout.gate.limits import too_few
from hedgerow.rollout.gate.samples import Window, value_of
from hedgerow.rollout.gate.shift import Shift
from hedgerow.rollout.gate.statistics import percentile
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
    if condition.against == "before":
        baseline = _worse(condition, baseline, _gauge_factor(condition, sight))
    return _by_ratio(condition, value, baseline, n=None, n_baseline=None)


def _gauge_factor(condition: Condition, sight: Sight) -> float:
    """How many times worse the figure became on hosts without the release, 1 at the least, or where they do not say."""
    pairs = [(gauge(condition, last(each.after))[0], gauge(condition, last(each.before))[0]) for each in sight.controls]
    ratios = [_ratio(condition, now, earlier) for now, earlier in pairs if now is not None and earlier is not None]
    return max(1.0, percentile(ratios, 0.5) or 1.0)


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


def _worse(condition: Condition, baseline: float, factor: float) -> float:
    """``baseline`` made worse ``factor`` times."""
    return baseline / factor if condition.metric in LESS_IS_WORSE else baseline * factor


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
    if found.standing is not Standing.BREACH or p > alpha:
        return msgspec.structs.replace(found, standing=Standing.PASS)
    return found if condition.against == "untouched" else _blamed(condition, found, sight, ours, alpha / sight.alpha)


def _blamed(condition: Condition, found: Finding, sight: Sight, ours: Sequence[float], share: float) -> Finding:
    """What is left of a breach against the time before. ``share``: of its alpha, what the test behind it has spent."""
    if condition.metric is None or sight.before is None:
        return found
    others = shift.measured(sight.before, sight.after, sight.controls, condition.metric)
    if others is not None:
        return _beside_others(condition, found, others, level=sight.shift_alpha * share)
    # While others are asked, their answers come; at the end it is judged by what there is.
    return UNTESTED if sight.controls and not sight.final else _by_itself(condition, found, condition.metric, ours)


def _beside_others(condition: Condition, found: Finding, others: Shift, *, level: float) -> Finding:
    """What is left of a breach against the time before, beside the change of hosts without the release."""
    allowed = _worse(condition, found.baseline or 0.0, others.factor)
    tested = f"p = {others.p:.2g}, {others.pairs} answers of untouched hosts"
    if others.p <= level and _is_worse(condition, found.value or 0.0, allowed):
        standing, reason = found.standing, f"{found.reason}; untouched hosts {others.factor:.2f} times meanwhile"
    else:
        standing, reason = Standing.PASS, f"{found.reason}, but untouched hosts became {others.factor:.2f} times worse"
    limit = _limit(condition, allowed)
    return msgspec.structs.replace(found, standing=standing, reason=f"{reason} ({tested})", limit=limit)


def _by_itself(condition: Condition, found: Finding, metric: Metric, ours: Sequence[float]) -> Finding:
    """What is left of it where no host is there to hold it to.

    In each half it must show by the root of what the whole must show: halves have half of the answers to show it by.
    """
    least = math.sqrt(condition.worse_by or 1.0)
    if all(_ratio(condition, each, found.baseline or 0.0) >= least for each in shift.halves(ours, metric)):
        return msgspec.structs.replace(found, reason=f"{found.reason}; no untouched host to hold it to")
    reason = f"{found.reason}; not in both halves of the answers"
    return msgspec.structs.replace(found, standing=Standing.PASS, reason=reason)


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
