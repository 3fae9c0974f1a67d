"""A circuit breaker: an endpoint that fails is left alone, then tried with one request. Pure; monotonic seconds.

closed → (``failures`` in a row) → open → (``open_s`` later) → half-open, one probe → closed, or open again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half_open"]


@dataclass(frozen=True)
class Permit:
    """Leave to send one request; ``probe``: on its outcome depends whether others follow."""

    probe: bool


class Breaker:
    """Of one endpoint; used from one event loop. Each permit is given back once, by one of the three methods."""

    def __init__(self, *, failures: int, open_s: float) -> None:
        self._failures = failures
        self._open_s = open_s
        self._in_a_row = 0
        self._opened: float | None = None
        self._probing = False

    def state(self, now: float) -> State:
        if self._opened is None:
            return "closed"
        return "half_open" if now - self._opened >= self._open_s else "open"

    def admit(self, now: float) -> Permit | None:
        """A permit; None while the endpoint is left alone, or another request probes it."""
        state = self.state(now)
        if state == "open" or (state == "half_open" and self._probing):
            return None
        self._probing = state == "half_open"
        return Permit(probe=self._probing)

    def succeeded(self, permit: Permit) -> None:
        """The endpoint answered. A request from before it opened says nothing about how it is now."""
        if permit.probe:
            self._probing, self._opened = False, None
        if self._opened is None:
            self._in_a_row = 0

    def failed(self, permit: Permit, now: float) -> None:
        """The endpoint failed."""
        if permit.probe:
            self._probing, self._opened = False, now
        elif self._opened is None:
            self._in_a_row += 1
            if self._in_a_row >= self._failures:
                self._opened = now

    def released(self, permit: Permit) -> None:
        """Nothing was learnt: the caller left, or it was not sent."""
        if permit.probe:
            self._probing = False
