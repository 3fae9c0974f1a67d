"""What the processor has done since boot, and how much of it was for others than this process.

So that a gate can tell a release that is slower from a board that was given something else to do. Only time in user
mode counts as other work: what the kernel does for the model itself (paging, compressed swap) is nobody else's. Time
that a hypervisor took away counts, too.
"""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

STAT = Path("/proc/stat")
_FIELDS = 8
"""user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5)); time of guests is in user already."""


class ProcessorState(Struct, frozen=True):
    """Seconds of all cores together; both only grow, until the board or this process is started again."""

    total_s: float
    """Since boot, idle time included."""
    others_s: float
    """Of these, what ran in user mode and was not this process."""


def parse(text: str, *, own_s: float, ticks_per_s: int) -> ProcessorState | None:
    """``/proc/stat``, of which this process had ``own_s`` seconds in user mode; None for text of another form. Pure."""
    name, *words = (text.splitlines() or [""])[0].split() or [""]
    if name != "cpu" or len(words) < _FIELDS or not all(word.isdecimal() for word in words):
        return None
    ticks = [int(word) for word in words[:_FIELDS]]
    user, nice, steal = ticks[0], ticks[1], ticks[7]
    # The kernel rounds each count by itself, so that ours can be the larger by a tick.
    others_s = max(0.0, (user + nice + steal) / ticks_per_s - own_s)
    return ProcessorState(round(sum(ticks) / ticks_per_s, 2), round(others_s, 2))


def read() -> ProcessorState | None:
    """As it is now; None where the kernel does not say."""
    try:
        text = STAT.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    own = os.times()
    return parse(text, own_s=own.user + own.children_user, ticks_per_s=os.sysconf("SC_CLK_TCK"))
