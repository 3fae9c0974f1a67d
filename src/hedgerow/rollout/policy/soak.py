"""Section ``soak``: how long a host is watched."""

from __future__ import annotations

from typing import Annotated

import msgspec

from hedgerow.rollout.policy.units import Count, Seconds


class Soak(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a host is watched after its activation."""

    passes: Count = 3
    """Passing looks in a row."""
    interval_s: Seconds = 1.0
    """Seconds between looks."""
    minimum_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Seconds that it is watched at least, however many looks have passed."""
    deadline_s: Seconds = 120.0
    """Seconds after which the last look decides."""

    @property
    def shortest_s(self) -> float:
        """Seconds that a host which passes every look is watched."""
        return max(self.minimum_s, (self.passes - 1) * self.interval_s)
