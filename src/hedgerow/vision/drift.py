"""Whether a model's confidence has left what it used to be. No IO.

The mean is of detections, so of what was above the threshold: it says that scene, lens, light or model changed, not
which. A camera that sees nothing changes nothing here; that shows in its own metrics.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class ConfidenceDrift:
    """The rolling mean of the last ``window`` confidences, held to a baseline.

    Invariants: no alarm before a whole window; on beyond ``tolerance``, off within half of it, so that a mean at the
    edge does not flutter.
    """

    def __init__(self, *, window: int, tolerance: float, baseline: float | None = None) -> None:
        self._given = baseline
        self._tolerance = tolerance
        self._recent: deque[float] = deque(maxlen=window)
        self.baseline = baseline
        self.alarm = False

    @property
    def mean(self) -> float | None:
        """None before the first detection."""
        return sum(self._recent) / len(self._recent) if self._recent else None

    def add(self, confidences: Iterable[float]) -> None:
        """Take a frame's detections into account."""
        for confidence in confidences:
            self._recent.append(confidence)
            if self.baseline is None and len(self._recent) == self._recent.maxlen:
                self.baseline = self.mean
        mean = self.mean
        if mean is None or self.baseline is None or len(self._recent) < (self._recent.maxlen or 0):
            return
        away = abs(mean - self.baseline)
        self.alarm = away > (self._tolerance / 2 if self.alarm else self._tolerance)

    def reset(self) -> None:
        """Another version of the model: what it will be sure of is not known yet."""
        self._recent.clear()
        self.baseline = self._given
        self.alarm = False
