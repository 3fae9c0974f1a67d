"""Which models stay in memory: who gives way to whom, and who has been idle for too long. Pure: the time is handed in.

Invariants:

- A pinned model never gives way; nor does one that requests run on, or that came less than its minimum stay ago.
  Without that stay, two models that do not fit together would load each other out of memory at every request.
- Of the others, the least recently used goes first, and no more go than must.
- What cannot fit is refused with the figures, before anything is unloaded for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from hedgerow.server.errors import Cause, Overloaded, ServingError

_MB: Final = 1 << 20
_LONGEST_WAIT_S: Final = 60


class DoesNotFit(ServingError):
    """The model is larger than what the budget leaves beside the pinned ones: no wait will change that."""

    status = 507
    cause = Cause.OVERLOADED


@dataclass(frozen=True)
class Rules:
    """``budget`` bytes for all models (None: no limit); ``keep_alive_s`` an idle model stays (None: for good).

    ``minimum_stay_s`` a model stays after it was loaded; ``pins`` are names of models that always stay.
    """

    budget: int | None = None
    keep_alive_s: float | None = None
    minimum_stay_s: float = 30.0
    pins: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Resident:
    """A loaded model: bytes it takes, when it was loaded and last used, and whether requests run on it."""

    name: str
    size: int
    loaded_s: float
    used_s: float
    busy: bool = False


def room(name: str, needed: int, residents: Sequence[Resident], rules: Rules, now_s: float) -> list[str]:
    """The models that give way to ``name``, which takes ``needed`` bytes.

    Raises:
        DoesNotFit: it never will.
        Overloaded: it does not as long as others are in use, or have just come.
    """
    if rules.budget is None:
        return []
    free = rules.budget - sum(each.size for each in residents)
    going: list[str] = []
    may_go = [each for each in residents if _may_go(each, rules, now_s)]
    for each in sorted(may_go, key=lambda each: each.used_s):
        if free >= needed:
            break
        free += each.size
        going.append(each.name)
    if free >= needed:
        return going
    text = _figures(name, needed, residents, rules, now_s)
    pinned = sum(each.size for each in residents if each.name in rules.pins)
    if needed > rules.budget - pinned:
        raise DoesNotFit(text)
    stays = [each.loaded_s + rules.minimum_stay_s - now_s for each in residents if each.name not in rules.pins]
    wait_s = min((stay for stay in stays if stay > 0), default=1.0)
    raise Overloaded(text, retry_after_s=min(max(1, math.ceil(wait_s)), _LONGEST_WAIT_S))


def idle(residents: Iterable[Resident], rules: Rules, now_s: float) -> tuple[list[str], float | None]:
    """The models whose time is over, and in how many seconds to look again; None: there is no need to."""
    if rules.keep_alive_s is None:
        return [], None
    over: list[str] = []
    wait_s = rules.keep_alive_s
    for each in residents:
        if each.name in rules.pins or each.busy:
            continue
        left_s = max(each.used_s + rules.keep_alive_s, each.loaded_s + rules.minimum_stay_s) - now_s
        if left_s <= 0:
            over.append(each.name)
        else:
            wait_s = min(wait_s, left_s)
    return over, wait_s


def _may_go(resident: Resident, rules: Rules, now_s: float) -> bool:
    return _why_it_stays(resident, rules, now_s) is None


def _why_it_stays(resident: Resident, rules: Rules, now_s: float) -> str | None:
    if resident.name in rules.pins:
        return "pinned"
    if resident.busy:
        return "in use"
    if now_s - resident.loaded_s < rules.minimum_stay_s:
        return "just loaded"
    return None


def _figures(name: str, needed: int, residents: Sequence[Resident], rules: Rules, now_s: float) -> str:
    budget = rules.budget or 0
    free = budget - sum(each.size for each in residents)
    parts = []
    for each in residents:
        why = _why_it_stays(each, rules, now_s)
        parts.append(f"{each.name} {megabytes(each.size)}" + (f" ({why})" if why else ""))
    loaded = f"; loaded: {', '.join(parts)}" if parts else ""
    return (
        f"model '{name}' needs {megabytes(needed)}; of the budget of {megabytes(budget)}, {megabytes(free)} are free"
        + loaded
    )


def megabytes(size: int) -> str:
    """For people, rounded up: half a megabyte too little is too little."""
    return f"{math.ceil(size / _MB)} MB" if size >= 0 else f"-{math.ceil(-size / _MB)} MB"
