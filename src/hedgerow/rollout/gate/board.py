"""What a board says of its own state that explains a slow answer. Pure.

- The firmware says throttled or undervoltage: that explains heat, too.
- Programs other than the server took the processor, more than before the activation by ``BUSIER`` of all its cores.
  Where hosts without the release have a word in the comparison, more than on those: what they suffered as well is taken
  out of it already, and hosts of one machine (emulated ones) all see each other's work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hedgerow.rollout.gate.findings import Sight
from hedgerow.rollout.gate.samples import Look, Window
from hedgerow.rollout.gate.shift import Control
from hedgerow.rollout.gate.statistics import percentile
from hedgerow.rollout.policy.gate import EXPLAINED, EXPLAINED_BY_LOAD, Criterion

BUSIER: Final = 0.25
"""One core of four. An agent that asks, an exporter that is read and a login are a few hundredths together."""
SHORTEST_S: Final = 0.5
"""Seconds of all cores; counts of a hundredth of a second say little about less."""


def explanation(criterion: Criterion, sight: Sight) -> str | None:
    """What explains a breach of ``criterion``, for people; None: nothing does, so that the release is blamed."""
    if all(each.metric in EXPLAINED for each in criterion.all_of):
        # It stands now, or has since the look before the last.
        if any(look.throttled for look in sight.after.looks[-2:]):
            return "its supply or its heat"
        if all(each.metric in EXPLAINED_BY_LOAD for each in criterion.all_of):
            compared = any(each.worse_by is not None for each in criterion.all_of)
            return _busier(sight.before, sight.after, sight.controls if compared else ())
    return None


def _busier(before: Window | None, after: Window, controls: Sequence[Control]) -> str | None:
    earlier, now = _others(_ends(before)), _others(_ends(after))
    if earlier is None or now is None:
        return None
    rises = [rise for rise in map(_rise, controls) if rise is not None]
    if now - earlier - (percentile(rises, 0.5) or 0.0) < BUSIER:
        return None
    return f"other work on it ({now:.0%} of its processor, {earlier:.0%} before)"


def _rise(control: Control) -> float | None:
    """By how much others took more of a control's processor. It was not touched, so its counts have no gap."""
    begin, middle = _ends(control.before)
    _, end = _ends(control.after)
    earlier, now = _others((begin, middle)), _others((middle, end))
    return None if earlier is None or now is None else now - earlier


def _ends(window: Window | None) -> tuple[Look | None, Look | None]:
    """The first and the last look that counted the processor's time."""
    looks = [] if window is None else window.looks
    counted = (look for look in looks if look.cpu_s is not None)
    return next(counted, None), next((look for look in reversed(looks) if look.cpu_s is not None), None)


def _others(ends: tuple[Look | None, Look | None]) -> float | None:
    """The share of all cores that others had between two looks; None where it is not known, or counts began anew."""
    first, last = ends
    if first is None or last is None or None in {first.cpu_s, last.cpu_s, first.cpu_others_s, last.cpu_others_s}:
        return None
    total = (last.cpu_s or 0.0) - (first.cpu_s or 0.0)
    others = (last.cpu_others_s or 0.0) - (first.cpu_others_s or 0.0)
    return others / total if total >= SHORTEST_S and 0 <= others <= total else None
