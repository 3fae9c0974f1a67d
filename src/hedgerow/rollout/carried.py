"""What a rollout takes over from a stuck one that it supersedes: hosts that went wrong there. Pure.

Where the stuck rollout's policy has a quarantine, they are in it, as after any end in order. Where it has none, since
the release to come may be what mends them, they have their turn in the last wave: a host that failed or was lost an
hour ago is no canary, for nobody could say whether it or the release is at fault.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from hedgerow.rollout.events import State
from hedgerow.rollout.holds import QUARANTINED
from hedgerow.rollout.plan import Target


def wrong(state: State) -> dict[str, str]:
    """Host → what became of it in the rollout, and why; those alone that went wrong."""
    found: dict[str, str] = {}
    for name, host in state.hosts.items():
        if host.fell is not None:
            found[name] = f"fell: {host.fell}"
        elif host.outcome in QUARANTINED:
            found[name] = f"{host.outcome}: {host.reason}" if host.reason else str(host.outcome)
    return found


def mark(targets: Iterable[Target], rollout: str, state: State) -> list[Target]:
    """``targets`` with what is known of them from ``rollout``."""
    known = wrong(state)
    return [
        msgspec.structs.replace(each, went_wrong=known[each.name], went_wrong_in=rollout)
        if each.name in known
        else each
        for each in targets
    ]
