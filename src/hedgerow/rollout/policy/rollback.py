"""Section ``rollback``: what goes back, and whether going back is tried first."""

from __future__ import annotations

from typing import Literal

import msgspec


class Rollback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a stop takes back."""

    on_stop: Literal["all", "failed"] = "all"
    """After a breach: every host that got the release in this rollout goes back, or only those that failed with it.
    A stop for another cause (hosts refused before they were touched, unreachable ones, a registry that is gone)
    takes nothing back; an emergency stop takes back everything."""
    drill: bool = False
    """The first host goes forward, back, and forward again, so that the way back is known to work."""
