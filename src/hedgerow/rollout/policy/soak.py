"""Section ``soak``: how long a host is watched."""

from __future__ import annotations

import msgspec

from hedgerow.rollout.policy.units import Count, Seconds


class Soak(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a host is watched after its activation."""

    passes: Count = 3
    """Passing looks in a row."""
    interval_s: Seconds = 1.0
    """Seconds between looks."""
    deadline_s: Seconds = 120.0
    """Seconds after which the last look decides."""
