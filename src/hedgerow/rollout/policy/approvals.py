"""Section ``approvals``: before which waves a person has to say yes."""

from __future__ import annotations

from typing import Annotated

import msgspec

from hedgerow.rollout.policy.units import Count


class Approval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One wave that waits for people."""

    before_wave: Count
    by: Annotated[list[str], msgspec.Meta(min_length=1)]
    """Who may; names of ``rollout_approvers`` in the inventory, which holds their SSH public keys."""
    count: Count = 1
    """How many of them must."""
    unsigned: bool = False
    """True: a name typed at the controller is enough. Otherwise it counts with a signature of the name's key."""

    def __post_init__(self) -> None:
        if self.count > len(set(self.by)):
            raise ValueError(f"approvals: wave {self.before_wave} wants {self.count} of {len(set(self.by))} name(s)")
