"""A token bucket: so many bytes a second, on the clock that nobody can set."""

from __future__ import annotations

import time
from collections.abc import Callable


class Limiter:
    """Bytes a second; ``burst_s`` seconds' worth may go at once after a pause.

    ``None`` limits nothing. A block that is larger than the bucket goes and is paid for afterwards, so that no size of
    block can stop the flow.
    """

    def __init__(
        self,
        bytes_per_s: float | None,
        *,
        burst_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_s
        self._room = 0.0 if bytes_per_s is None else bytes_per_s * burst_s
        self._tokens = self._room
        self._clock, self._sleep = clock, sleep
        self._last = clock()

    def take(self, size: int) -> None:
        """Account for ``size`` bytes that have come; waits until the rate allows for them."""
        if self._rate is None:
            return
        now = self._clock()
        self._tokens = min(self._room, self._tokens + (now - self._last) * self._rate) - size
        self._last = now
        if self._tokens < 0:
            self._sleep(-self._tokens / self._rate)
