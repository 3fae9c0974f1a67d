"""In which order hosts go back, and how long each is waited for: one that is silent never holds up others. Pure.

A silent host costs a whole connection's time limit a try. Where others wait to go
back, it gets one try, and counts as lost: its own deadline takes it back. When all
others are back, it is tried as often as the policy allows.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from hedgerow.rollout import decide
from hedgerow.rollout.events import State
from hedgerow.rollout.policy import budgets


def order(state: State) -> list[str]:
    """Who is to be brought back at the end of a run: lost hosts last, for they may be back by now."""
    return list(dict.fromkeys([*decide.to_undo(state), *state.lost]))


def others_wait(state: State, host: str, *, fails: bool = False) -> bool:
    """Whether others are to go back, whatever becomes of ``host``.

    ``fails``: it is about to count as failed, so that a stop which this brings is as good as there.
    """
    return any(each != host for each in _going_back(state, fails=fails))


def _going_back(state: State, *, fails: bool) -> Iterable[str]:
    if not fails or decide.stopped(state) is not None:
        return decide.to_undo(state)
    policy = state.plan.policy
    then = msgspec.structs.replace(state.tally(), failed=state.tally().failed + 1)
    if budgets.spent(then, policy.budgets) is None:
        return decide.to_undo(state)
    # Hosts in their turn while another is brought back have failed as well, or were cut off half-way.
    return [*(state.holding if policy.rollback.on_stop == "all" else ()), *state.turns]
