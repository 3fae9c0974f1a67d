"""Section ``sites``: how many hosts of a site stay out of their turn, so that its users are served meanwhile."""

from __future__ import annotations

from typing import Literal

import msgspec

from hedgerow.rollout.policy.units import Count, Natural
from hedgerow.rollout.policy.waves import Percent, reach, share


class Sites(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The budget of every site."""

    min_available: Natural | Percent = 1
    """Hosts of a site, or the share of them (``"50%"``, rounded up), that are not in their turn at one time. Held and
    quarantined hosts are not counted on."""
    small: Literal["one_by_one", "leave_out"] = "one_by_one"
    """A site that has not more hosts than that: one after the other all the same, which the plan says (a site of one
    host is then without), or not at all."""

    downloads: Count = 2
    """Hosts of a site that fetch at one time when a release is staged ahead of their turns: its uplink is one."""

    def __post_init__(self) -> None:
        if isinstance(self.min_available, str) and share(self.min_available) >= 1:
            raise ValueError(f"sites.min_available of {self.min_available} lets no host have its turn")

    def needed(self, hosts: int) -> int:
        """How many of a site's ``hosts`` must not be in their turn."""
        return reach(self.min_available, hosts) if isinstance(self.min_available, str) else self.min_available
