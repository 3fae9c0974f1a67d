"""A site's link, shared evenly by the hosts that fetch over it at one time. Pure.

Processor sharing by virtual work: ``fetched`` is what each host under way has got since the link was first used, so an
arrival needs one heap entry however many others there are (L. Kleinrock, "Queueing Systems" II, 1976, chapter 4).
"""

from __future__ import annotations

import heapq
import itertools


class Link:
    """Times in seconds, ``speed`` in bytes a second."""

    __slots__ = ("_count", "_fetched", "_since", "_under_way", "carried", "speed", "version")

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self.carried = 0.0
        """Bytes that hosts were given so far."""
        self.version = 0
        """Changes with every arrival and departure, so that a completion foreseen before is known to be stale."""
        self._under_way: list[tuple[float, int, str]] = []
        self._fetched = 0.0
        self._since = 0.0
        self._count = itertools.count()

    def begin(self, host: str, size: float, now: float) -> None:
        """``host`` starts to fetch ``size`` bytes."""
        self._advance(now)
        heapq.heappush(self._under_way, (self._fetched + size, next(self._count), host))
        self.version += 1

    def next_done(self) -> tuple[float, str] | None:
        """When which host is done, if nobody else comes."""
        if not self._under_way:
            return None
        until, _, host = self._under_way[0]
        return self._since + max(0.0, until - self._fetched) * len(self._under_way) / self.speed, host

    def finish(self, now: float) -> str:
        """The host of ``next_done`` is done at ``now``."""
        self._advance(now)
        host = heapq.heappop(self._under_way)[2]
        self.version += 1
        return host

    def _advance(self, now: float) -> None:
        if self._under_way:
            got = (now - self._since) * self.speed
            self._fetched += got / len(self._under_way)
            self.carried += got
        self._since = now
