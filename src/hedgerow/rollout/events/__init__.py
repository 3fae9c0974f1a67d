"""What follows from a journal: its events folded into a state, one at a time. Pure.

``State.apply`` costs the same however long the journal is: every count that a
decision needs is kept, none is taken again. The events themselves are
``hedgerow.rollout.records``, and can be had from here as well; what one of them
changes is in ``folding``.
"""

from __future__ import annotations

from hedgerow.rollout.events.host import HostState
from hedgerow.rollout.events.state import State, begin, replay
from hedgerow.rollout.gate.verdicts import CriterionResult
from hedgerow.rollout.records import (
    FAILED,
    GOOD,
    HARMED,
    UNTOUCHED,
    Closed,
    Event,
    HostActivated,
    HostFell,
    HostFinished,
    HostJudged,
    HostPrepared,
    HostResolved,
    HostRetried,
    HostStaged,
    HostStarted,
    HostUndone,
    Notified,
    Opened,
    OperatorAsked,
    Outcome,
    Rechecked,
    Request,
    RequestKind,
    Resumed,
    RolledBack,
    Stopped,
    Superseded,
    Surveyed,
    Telling,
    Waiting,
    WaveOpened,
)

__all__ = [
    "FAILED",
    "GOOD",
    "HARMED",
    "UNTOUCHED",
    "Closed",
    "CriterionResult",
    "Event",
    "HostActivated",
    "HostFell",
    "HostFinished",
    "HostJudged",
    "HostPrepared",
    "HostResolved",
    "HostRetried",
    "HostStaged",
    "HostStarted",
    "HostState",
    "HostUndone",
    "Notified",
    "Opened",
    "OperatorAsked",
    "Outcome",
    "Rechecked",
    "Request",
    "RequestKind",
    "Resumed",
    "RolledBack",
    "State",
    "Stopped",
    "Superseded",
    "Surveyed",
    "Telling",
    "Waiting",
    "WaveOpened",
    "begin",
    "replay",
]
