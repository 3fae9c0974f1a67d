"""Whether one condition, or one criterion, is met: figures in, findings out. Pure.

- An absolute limit that the host broke before the release touched it does not
  count against the release, unless the policy says so. More errors than before
  count all the same, by Fisher's test.
- A comparison is breached when the ratio is **and** the test is: a difference
  of a tenth that a thousand samples prove harms nobody, and one of half that
  three samples show is chance.
- Answers are compared question by question: only questions that were put on
  both sides count, for a long one takes longer on any version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from hedgerow.rollout.gate import statistics
from hedgerow.rollout.gate.samples import Look, Window, value_of
from hedgerow.rollout.gate.verdicts import CriterionResult, Standing
from hedgerow.rollout.policy.gate import EXPLAINED, LESS_IS_WORSE, SAMPLED, Condition, Criterion, Metric


@dataclass(frozen=True, slots=True)
class Sight:
    """What a criterion is judged on. ``alpha`` is what the final test of a condition may spend; None: an interim."""

    before: Window | None
    after: Window
    untouched: Window | None
    look: Look | None
    started: float
    now: float
    alpha: float
    final: bool
    ignore_outage: bool = False


class Finding(msgspec.Struct, frozen=True, gc=False):
    """What came of one condition. ``standing`` NO_DATA with ``comes``: more samples would tell."""

    standing: Standing
    reason: str = ""
    value: float | None = None
    limit: float | None = None
    baseline: float | None = None
    p: float | None = None
    n: int | None = None
    n_baseline: int | None = None
    comes: bool = False


UNTESTED = Finding(Standing.PASS, "not tested yet")


def evaluate(criterion: Criterion, sight: Sight) -> tuple[Finding, Condition]:
    """Judge a criterion: the finding that decides, and of which condition.

    One condition that holds lets the criterion pass; otherwise the first that is unknown decides, or else the last.
    """
    unknown: tuple[Finding, Condition] | None = None
    for place, condition in enumerate(criterion.all_of):
        finding = _find(condition, sight, f"{criterion.name}.{place}")
        if finding.standing is Standing.PASS:
            return finding, condition
        if finding.standing is not Standing.BREACH and unknown is None:
            unknown = finding, condition
    return unknown if unknown is not None else (finding, condition)


def explained(criterion: Criterion, window: Window) -> bool:
    """Whether the board's supply or heat explains a breach: it stands now, or has since the look before the last."""
    throttled = any(look.throttled for look in window.looks[-2:])
    return throttled and all(each.metric in EXPLAINED for each in criterion.all_of)


def result(criterion: Criterion, finding: Finding, condition: Condition) -> CriterionResult:
    """The finding for the journal."""
    return CriterionResult(
        name=criterion.name,
        verdict=finding.standing,
        reason=finding.reason,
        metric=condition.subject,
        value=_short(finding.value),
        limit=_short(finding.limit),
        baseline=_short(finding.baseline),
        p=None if finding.p is None else float(f"{finding.p:.3g}"),
        n=finding.n,
        n_baseline=finding.n_baseline,
    )


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _find(condition: Condition, sight: Sight, key: str) -> Finding:
    if condition.worse_by is None:
        return _held(condition, sight)
    if not condition.tested:
        return _compared_gauge(condition, sight)
    if condition.metric is Metric.ERROR_RATIO:
        return _compared_errors(condition, sight, key)
    return _compared(condition, sight, key)


# -- limits -------------------------------------------------------------------


def _held(condition: Condition, sight: Sight) -> Finding:
    metric = condition.metric
    if metric in SAMPLED:
        return _limited_samples(condition, metric, sight)
    match metric:
        case Metric.ERROR_RATIO:
            return _limited_errors(condition, sight)
        case Metric.GOLDEN_FAILURES:
            return _limited_golden(condition, sight.after)
        case Metric.RESTARTS:
            return _limited(condition, _restarts(sight), "the report does not count restarts", None, None)
        case Metric.START_S:
            return _limited(condition, sight.after.start_s, "nobody measured how long it took to start", None, None)
    value, why = _gauge(condition, sight.look)
    return _limited(condition, value, why, _gauge(condition, _last(sight.before))[0], None)


def _gauge(condition: Condition, look: Look | None) -> tuple[float | None, str]:
    """What a report or a query said in one look, and why if it did not."""
    if look is None:
        return None, "nobody has looked yet"
    if condition.query is not None:
        why = look.outage or look.unanswered.get(condition.query) or "Prometheus was not asked"
        return look.queries.get(condition.query), why
    return (None if condition.metric is None else look.metrics.get(condition.metric)), "the report does not give it"


def _limited(condition: Condition, value: float | None, unknown: str, before: float | None, n: int | None) -> Finding:
    if value is None:
        return Finding(Standing.NO_DATA, f"{condition.subject}: {unknown}")
    limit = condition.above if condition.above is not None else condition.below
    if not _breaks(condition, value):
        return Finding(Standing.PASS, value=value, limit=limit, baseline=before, n=n)
    side = "above" if condition.above is not None else "below"
    text = f"{condition.subject} is {value:.4g}, {side} {limit:g}"
    if before is not None and not condition.even_if_before and _breaks(condition, before):
        return Finding(Standing.PASS, f"{text}, as before the release ({before:.4g})", value, limit, before, n=n)
    return Finding(Standing.BREACH, text + _counted(n), value, limit, before, n=n)


def _breaks(condition: Condition, value: float) -> bool:
    if condition.above is not None:
        return value > condition.above
    return condition.below is not None and value < condition.below


def _counted(n: int | None) -> str:
    return "" if n is None else f" ({n} answer{'s' if n != 1 else ''})"


def _limited_samples(condition: Condition, metric: Metric, sight: Sight) -> Finding:
    ours = sight.after.column(metric)
    if len(ours) < condition.samples:
        return _too_few(condition, metric, sight.after, len(ours))
    theirs = () if sight.before is None else sight.before.column(metric)
    before = value_of(metric, theirs) if len(theirs) >= condition.samples else None
    return _limited(condition, value_of(metric, ours), "", before, len(ours))


def _too_few(condition: Condition, metric: Metric, after: Window, have: int) -> Finding:
    if not after.column(metric) and after.latency_ms:
        return Finding(Standing.NO_DATA, f"{condition.subject}: answers of this model do not show it")
    return Finding(Standing.NO_DATA, f"{condition.subject}: {have} of {condition.samples} answers", n=have, comes=True)


def _limited_golden(condition: Condition, after: Window) -> Finding:
    if not after.asked:
        return Finding(Standing.NO_DATA, "it has answered no question of the release's own", comes=True)
    value = len(after.wrong)
    if not _breaks(condition, value):
        return Finding(Standing.PASS, value=value, limit=condition.above, n=after.asked)
    text = f"{value} of {after.asked} answers wrong: {after.wrong[0]}"
    return Finding(Standing.BREACH, text, value, condition.above, n=after.asked)


def _limited_errors(condition: Condition, sight: Sight) -> Finding:
    errors, requests = _errors_since(sight)
    if requests < condition.samples:
        return Finding(Standing.NO_DATA, f"{requests} of {condition.samples} requests", n=requests, comes=True)
    ratio = errors / requests
    limit = condition.above if condition.above is not None else condition.below
    if not _breaks(condition, ratio):
        return Finding(Standing.PASS, value=ratio, limit=limit, n=requests)
    said = f", last: {sight.after.last_error}" if sight.after.last_error else ""
    text = f"{errors} of {requests} requests failed, more than {limit:.1%}{said}"
    errors_before, requests_before = _errors_of(sight.before)
    if not condition.even_if_before and requests_before and _breaks(condition, errors_before / requests_before):
        p = statistics.fisher(errors_before, requests_before, errors, requests)
        was = errors_before / requests_before
        standing = Standing.BREACH if p <= sight.alpha else Standing.PASS
        text = f"{text}; {errors_before} of {requests_before} before the release (p = {p:.2g})"
        return Finding(standing, text, ratio, limit, was, p, requests, requests_before)
    return Finding(Standing.BREACH, text, ratio, limit, n=requests)


def _restarts(sight: Sight) -> float | None:
    """Ends of the server that nobody asked for, since before the release touched the host."""
    counts = [look.restarts for look in sight.after.looks if look.restarts is not None]
    if not counts:
        return None
    last = (
        None
        if sight.before is None
        else next((look.restarts for look in reversed(sight.before.looks) if look.restarts is not None), None)
    )
    base = counts[0] if last is None else last
    # The count begins anew with a boot, or a stop that somebody asked for.
    return counts[-1] - base if counts[-1] >= base else counts[-1]


def _last(window: Window | None) -> Look | None:
    return None if window is None else window.latest


# -- errors -------------------------------------------------------------------


def _errors_of(window: Window | None) -> tuple[int, int]:
    """Errors and requests of a window: the server's own count where it has seen more than the gate's questions."""
    if window is None:
        return 0, 0
    look = window.latest
    if look is None or look.requests is None or look.requests < window.asked:
        return window.errors, window.asked
    return max(window.errors, min(look.errors or 0, look.requests)), look.requests


def _errors_since(sight: Sight) -> tuple[int, int]:
    """Errors and requests since the activation.

    The server counts over a sliding window. What it had before is taken away; where that window has been full all
    along, requests since are its share of the time that passed. Errors that left the window hide as many new ones at
    most: the gate's own questions are counted apart and never hidden.
    """
    after, look, base = sight.after, sight.after.latest, _last(sight.before)
    if look is None or look.requests is None or base is None or base.requests is None:
        return after.errors, after.asked
    errors = max(after.errors, (look.errors or 0) - (base.errors or 0), 0)
    share = min(1.0, (sight.now - sight.started) / look.window_s) if look.window_s else 0.0
    return errors, max(after.asked, look.requests - base.requests, round(look.requests * share), errors)


# -- comparisons --------------------------------------------------------------


def _other(condition: Condition, sight: Sight) -> Window | None:
    return sight.before if condition.against == "before" else sight.untouched


def _nothing(condition: Condition, why: str) -> Finding:
    return Finding(Standing.SKIPPED, f"{condition.subject}: {why}")


def _missing(condition: Condition) -> Finding:
    if condition.against == "before":
        return _nothing(condition, "nothing was measured before the activation")
    return _nothing(condition, "no untouched host is left to compare it with")


def _ratio(metric: Metric | None, value: float, baseline: float) -> float:
    """How many times worse; infinite where nothing was wrong before."""
    high, low = (baseline, value) if metric in LESS_IS_WORSE else (value, baseline)
    if low > 0:
        return high / low
    return 1.0 if high <= 0 else float("inf")


def _compared_gauge(condition: Condition, sight: Sight) -> Finding:
    """By ratio alone: a report gives one figure, not samples."""
    value, why = _gauge(condition, sight.look)
    baseline, _ = _gauge(condition, _last(_other(condition, sight)))
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
    worst = condition.worse_by or 1.0
    limit = baseline / worst if condition.metric in LESS_IS_WORSE else baseline * worst
    ratio = _ratio(condition.metric, value, baseline)
    found = f"{condition.subject} is {value:.4g}, {ratio:.2f} times worse than {baseline:.4g} {_whose(condition)}"
    tested = "" if p is None else f", p = {p:.2g}, {n} and {n_baseline} samples"
    return Finding(
        Standing.BREACH if ratio >= worst else Standing.PASS,
        f"{found} (limit {worst:g}{tested})",
        value,
        limit,
        baseline,
        p,
        n,
        n_baseline,
    )


def _whose(condition: Condition) -> str:
    return "before" if condition.against == "before" else "on untouched hosts"


def _stage(sight: Sight, key: str, have: int, minimum: int) -> tuple[int, float] | None:
    """How many samples to test now, and what that test may spend; None: none is due.

    Interim tests are made when samples have doubled from the minimum on, the k-th (from 0) with alpha / 2^(k+2); they
    spend half of alpha together, the one at the end the other half. By Bonferroni's inequality the chance of any false
    alarm stays under alpha, however often the host is looked at.
    """
    if sight.final:
        return have, sight.alpha / 2
    stage = (have // minimum).bit_length() - 1
    if sight.after.tested.get(key, -1) >= stage:
        return None
    sight.after.tested[key] = stage
    return minimum << stage, sight.alpha / 2 ** (stage + 2)


def _compared(condition: Condition, sight: Sight, key: str) -> Finding:
    metric, other = condition.metric, _other(condition, sight)
    if metric is None or other is None:
        return _missing(condition)
    ours, theirs = _alike(sight.after, other, metric)
    lack = _lack(condition, metric, sight.after, len(ours), len(theirs))
    if lack is not None:
        return lack
    stage = _stage(sight, key, len(ours), condition.samples)
    if stage is None:
        return UNTESTED
    count, alpha = stage
    ours = ours[:count]
    value, baseline = value_of(metric, ours) or 0.0, value_of(metric, theirs) or 0.0
    # The ratio is cheap and mostly not reached; an interim test need not be made then.
    if not sight.final and _ratio(metric, value, baseline) < (condition.worse_by or 1.0):
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
    return _too_few(condition, metric, after, ours) if ours < minimum else None


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
    errors, requests = _errors_since(sight)
    theirs, of = _errors_of(other)
    minimum = condition.samples
    if of < minimum:
        return _nothing(condition, f"only {of} of {minimum} requests {_whose(condition)}")
    if requests < minimum:
        return Finding(Standing.NO_DATA, f"error_ratio: {requests} of {minimum} requests", n=requests, comes=True)
    stage = _stage(sight, key, requests, minimum)
    if stage is None:
        return UNTESTED
    p = statistics.fisher(theirs, of, errors, requests)
    found = _by_ratio(condition, errors / requests, theirs / of, n=requests, n_baseline=of, p=p)
    return found if p <= stage[1] else msgspec.structs.replace(found, standing=Standing.PASS)
