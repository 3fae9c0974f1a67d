"""No more than so many requests in any minute. Pure; monotonic seconds."""

from __future__ import annotations

import collections

_WINDOW_S = 60.0


class Rate:
    """Remembers the times of the last minute; used from one event loop."""

    def __init__(self, per_minute: int) -> None:
        self._times: collections.deque[float] = collections.deque(maxlen=per_minute)

    def take(self, now: float) -> bool:
        """Whether one more may be sent now; if so, it counts."""
        full = len(self._times) == self._times.maxlen
        if full and now - self._times[0] < _WINDOW_S:
            return False
        self._times.append(now)
        return True
