"""What a condition is judged on, and what comes of it: the figures behind both. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from hedgerow.rollout.gate.samples import Look, Window
from hedgerow.rollout.gate.shift import SHIFT_ALPHA, Control
from hedgerow.rollout.gate.verdicts import Standing
from hedgerow.rollout.policy.gate import Condition


@dataclass(frozen=True, slots=True)
class Sight:
    """What a criterion is judged on.

    ``alpha`` is what one condition may spend on tests; ``final``: this is its last test. ``started`` and ``now`` are
    seconds on the clock of the looks.
    """

    before: Window | None
    after: Window
    untouched: Window | None
    look: Look | None
    started: float
    now: float
    alpha: float
    final: bool
    interim: bool = True
    """Interim tests may be made: not in the first looks, when a version that was just loaded is still warming up."""
    controls: Sequence[Control] = ()
    """Hosts without the release, of which there is a time before and a time since."""
    shift_alpha: float = SHIFT_ALPHA
    """As ``alpha``, for the test whether the host changed more than those."""


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


def last(window: Window | None) -> Look | None:
    return None if window is None else window.latest


def gauge(condition: Condition, look: Look | None) -> tuple[float | None, str]:
    """What a report or a query said in one look, and why if it did not."""
    if look is None:
        return None, "nobody has looked yet"
    if condition.query is not None:
        why = look.outage or look.unanswered.get(condition.query) or "Prometheus was not asked"
        return look.queries.get(condition.query), why
    return (None if condition.metric is None else look.metrics.get(condition.metric)), "the report does not give it"


def errors_of(window: Window | None) -> tuple[int, int]:
    """Errors and requests of a host without the release, by its own count before the gate's first question.

    How it answers questions of the release does not count: another version need not know them.
    """
    look = window.looks[0] if window is not None and window.looks else None
    if look is None or look.requests is None:
        return 0, 0
    return min(look.errors or 0, look.requests), look.requests


def errors_since(sight: Sight) -> tuple[int, int]:
    """Errors and requests since the activation.

    The server counts over a sliding window. What it had before is taken away; where that window has been full all
    along, requests since are its share of the time that passed. Errors that left the window hide as many new ones at
    most: the gate's own questions are counted apart and never hidden.
    """
    after, look, base = sight.after, sight.after.latest, last(sight.before)
    if look is None or look.requests is None or base is None or base.requests is None:
        return after.errors, after.asked
    errors = max(after.errors, (look.errors or 0) - (base.errors or 0), 0)
    share = min(1.0, (sight.now - sight.started) / look.window_s) if look.window_s else 0.0
    return errors, max(after.asked, look.requests - base.requests, round(look.requests * share), errors)


def restarts_since(before: Window | None, after: Window) -> int | None:
    """Ends of the server that nobody asked for, since before the release touched the host; None: not reported."""
    if after.first_restarts is None:
        return None
    base = after.first_restarts if before is None or before.last_restarts is None else before.last_restarts
    # The count begins anew with a boot, or a stop that somebody asked for.
    gap = after.first_restarts - base if after.first_restarts >= base else after.first_restarts
    return gap + after.new_restarts


def stage_of(sight: Sight, key: str, have: int, minimum: int) -> tuple[int, float] | None:
    """How many samples to test now, and what that test may spend; None: none is due.

    Interim tests are made when samples have doubled from the minimum on, the k-th (from 0) with alpha / 2^(k+2); they
    spend half of alpha together, the one at the end the other half. By Bonferroni's inequality the chance of any false
    alarm stays under alpha, however often the host is looked at.
    """
    if sight.final:
        return have, sight.alpha / 2
    if not sight.interim:
        return None
    stage = (have // minimum).bit_length() - 1
    if sight.after.tested.get(key, -1) >= stage:
        return None
    sight.after.tested[key] = stage
    return minimum << stage, sight.alpha / 2 ** (stage + 2)
