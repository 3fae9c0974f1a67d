"""Absolute limits. Pure.

A limit that the host broke before the release touched it does not count against the release, unless the policy says so.
More errors than before count all the same, by Fisher's test.
"""

from __future__ import annotations

from collections.abc import Sequence

from hedgerow.rollout.gate import statistics
from hedgerow.rollout.gate.findings import (
    UNTESTED,
    Finding,
    Sight,
    errors_of,
    errors_since,
    gauge,
    last,
    restarts_since,
    stage_of,
)
from hedgerow.rollout.gate.samples import PERCENTILES, Window, value_of
from hedgerow.rollout.gate.statistics import percentile
from hedgerow.rollout.gate.verdicts import Standing
from hedgerow.rollout.policy.gate import SAMPLED, Condition, Metric


def held(condition: Condition, sight: Sight, key: str) -> Finding:
    """Judge an ``above`` or ``below``. ``key`` names the condition in the window's notes of tests."""
    metric = condition.metric
    if metric in SAMPLED:
        return _limited_samples(condition, metric, sight)
    match metric:
        case Metric.ERROR_RATIO:
            return _limited_errors(condition, sight, key)
        case Metric.GOLDEN_FAILURES:
            return _limited_golden(condition, sight.after)
        case Metric.RESTARTS:
            return _limited(
                condition, restarts_since(sight.before, sight.after), "the report does not count restarts", None, None
            )
        case Metric.START_S:
            return _limited(condition, sight.after.start_s, "nobody measured how long it took to start", None, None)
    value, why = gauge(condition, sight.look)
    return _limited(condition, value, why, gauge(condition, last(sight.before))[0], None)


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
        return too_few(condition, metric, sight.after, len(ours))
    theirs = () if sight.before is None else sight.before.column(metric)
    before = value_of(metric, theirs) if len(theirs) >= condition.samples else None
    found = _limited(condition, value_of(metric, ours), "", before, len(ours))
    if found.standing is Standing.BREACH and not sight.final and not _beyond_doubt(condition, metric, ours):
        return UNTESTED
    return found


def _beyond_doubt(condition: Condition, metric: Metric, ours: Sequence[float]) -> bool:
    """Whether a high percentile need not be waited for: half of the answers are over its limit.

    The 95th percentile of twenty answers hangs on two of them. That ten of them exceed what one in twenty may has a
    chance of one in eighty million; the percentile itself decides at the end of the soak.
    """
    return PERCENTILES.get(metric, 0.0) >= 0.95 and _breaks(condition, percentile(ours, 0.5) or 0.0)  # noqa: PLR2004


def too_few(condition: Condition, metric: Metric, after: Window, have: int) -> Finding:
    """What is said where answers are missing: whether more would help."""
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


def _limited_errors(condition: Condition, sight: Sight, key: str) -> Finding:
    errors, requests = errors_since(sight)
    if requests < condition.samples:
        return Finding(Standing.NO_DATA, f"{requests} of {condition.samples} requests", n=requests, comes=True)
    ratio = errors / requests
    limit = condition.above if condition.above is not None else condition.below
    if not _breaks(condition, ratio):
        return Finding(Standing.PASS, value=ratio, limit=limit, n=requests)
    said = f", last: {sight.after.last_error}" if sight.after.last_error else ""
    text = f"{errors} of {requests} requests failed, more than {limit:.1%}{said}"
    theirs, of = errors_of(sight.before)
    if condition.even_if_before or not of or not _breaks(condition, theirs / of):
        return Finding(Standing.BREACH, text, ratio, limit, n=requests)
    stage = stage_of(sight, key, requests, condition.samples)
    if stage is None:
        return UNTESTED
    p = statistics.fisher(theirs, of, errors, requests)
    text = f"{text}; {theirs} of {of} before the release (p = {p:.2g})"
    standing = Standing.BREACH if p <= stage[1] else Standing.PASS
    return Finding(standing, text, ratio, limit, theirs / of, p, requests, of)
