"""In which order hosts go back, and how long each is waited for: one that is silent never holds up others. Pure.

A silent host costs a whole connection's time limit a try. Where others wait to go
back, it gets one try, and counts as lost: its own deadline takes it back. When all
others are back, it is tried as often as the policy allows.
"""

from __future__ import annotations

from itertools import chain

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
    # As ``decide.to_undo`` has them, but without a list of the whole fleet for every host that goes back.
    undo, ended = _end(state, fails=fails)
    going = chain(state.holding if undo else (), state.fallen, state.turns if ended else ())
    return any(each != host for each in going)


def _end(state: State, *, fails: bool) -> tuple[bool, bool]:
    """Whether what was done is taken back, and whether nobody starts any more, after one more failure if ``fails``."""
    stop = decide.stopped(state)
    if stop is not None:
        return stop.undo, True
    policy = state.plan.policy
    then = msgspec.structs.replace(state.tally(), failed=state.tally().failed + fails)
    ended = budgets.spent(then, policy.budgets) is not None
    return ended and policy.rollback.on_stop == "all", ended
