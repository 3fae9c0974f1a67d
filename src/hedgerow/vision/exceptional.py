"""Which frames are exceptional, and how many may leave. No IO; the time is passed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hedgerow.vision.config import When
from hedgerow.vision.detector import Detection

Reason = Literal["class", "uncertain", "drift"]
_HOUR_S = 3600.0


def reason(when: When, detections: Sequence[Detection], *, drifting: bool) -> Reason | None:
    """Why a frame is exceptional; None where it is not."""
    if any(each.label in when.classes for each in detections):
        return "class"
    if when.confidence_between is not None:
        low, high = when.confidence_between
        if any(low <= each.confidence <= high for each in detections):
            return "uncertain"
    return "drift" if when.drift and drifting else None


class Allowance:
    """A token bucket: ``burst`` at once, refilled at ``per_hour``; times are monotonic seconds."""

    def __init__(self, *, per_hour: float, burst: int) -> None:
        self._per_s = per_hour / _HOUR_S
        self._burst = burst
        self._left = float(burst)
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Whether one more may leave now; it is counted as gone."""
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
