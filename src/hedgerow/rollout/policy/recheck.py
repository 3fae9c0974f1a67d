"""Section ``recheck``: who is looked at again before a wave, so that waves without a wait see slow leaks, too."""

from __future__ import annotations

import msgspec

from hedgerow.rollout.policy.units import Natural, Seconds


class Recheck(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Looks at confirmed hosts before each wave, and each batch of one."""

    hosts: Natural = 200
    """How many are looked at; where more are confirmed, the next ones in turn each time. 0: nobody."""
    within_s: Seconds = 30.0
    """Seconds that it may take; who has not answered by then is passed over."""
