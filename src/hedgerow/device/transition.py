"""The state of an activation, and what follows from it. Pure: no IO, and the time is handed in.

On disk there are two links, ``current`` and ``previous``, and ``pending.json`` while something is under way or waits
for its confirmation. Steps, in order; ``activation`` takes them, each of them atomic:

    activate: pending {from, to}   →  current = to    →  server switches  →  previous = from         (then: confirm)
    confirm:  pending removed
    revert:   pending {reverting}  →  current = from  →  server switches  →  previous as it was  →  pending removed

So whatever was cut off where, three facts tell what it was and how it ends:

- no pending: nothing was under way.
- pending says ``reverting``: a revert; it is finished, because somebody or a deadline wanted it.
- pending, ``current`` is not ``to``: an activation that never took effect; it is forgotten.
- pending, ``current`` is ``to``: an activation that took effect; what is left of it is done, and its deadline runs.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum, auto

import msgspec

from hedgerow.device.change import Change, Kind


class Pending(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """``pending.json``: ``name`` goes ``from_`` one version ``to`` another; ``from_`` None is a first activation.

    ``previous`` is where that link pointed before, and points again after a revert. ``reverting`` is why it goes back.
    ``kind`` says what ``name`` is. There is one note, so one thing changes at a time.
    ``deadline`` is UTC; ``boot_id`` and ``deadline_boottime_s`` (seconds on the clock that runs since boot) hold
    against a wall clock that jumps.
    """

    name: str
    from_: str | None
    to: str
    since: datetime
    deadline: datetime
    boot_id: str
    deadline_boottime_s: float
    previous: str | None = None
    reverting: str | None = None
    kind: Kind = "model"

    @property
    def reference(self) -> str:
        return str(self.change)

    @property
    def change(self) -> Change:
        """What waits, as commands name it."""
        return Change(self.kind, self.name, self.to)


class Recovery(Enum):
    """How what was cut off comes to its end."""

    NOTHING = auto()
    FORGET = auto()
    FINISH = auto()
    REVERT = auto()


def recovery(pending: Pending | None, current: str | None) -> Recovery:
    """What is left to do, given ``pending.json`` and where ``current`` points."""
    if pending is None:
        return Recovery.NOTHING
    if pending.reverting is not None:
        return Recovery.REVERT
    return Recovery.FINISH if current == pending.to else Recovery.FORGET


def overdue(pending: Pending, *, now: datetime, boottime_s: float, boot_id: str) -> bool:
    """Whether nobody confirmed in time.

    Within one boot the clock since boot decides: nobody can set it. After a reboot the wall clock does, and a wall
    clock that is behind (a Pi without a battery, before it is synchronised) cannot stretch the time beyond one more
    period of uptime.
    """
    if pending.boot_id == boot_id:
        return boottime_s >= pending.deadline_boottime_s
    period_s = (pending.deadline - pending.since).total_seconds()
    return now >= pending.deadline or boottime_s >= period_s
