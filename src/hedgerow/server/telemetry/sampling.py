"""Which answers are kept for people to judge. No clock, no IO: the caller tells the time and draws the number.

The rate adapts to the traffic. Answers fall into classes (``CLASSES``); the hour's budget is shared among the classes
that occur, equally, and what a rare class does not use goes to the others. An answer is then kept with the probability
share / (answers of its class in an hour, as lately). So of a rare class all are kept, and of a frequent one about its
share, however much traffic there is.

Beside that, whatever the traffic does: never more than the budget in any hour, nor a sixth of it in ten minutes, so
that a burst does not take it all; the usual answers may take half of that.
"""

from __future__ import annotations

import collections
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hedgerow.server.telemetry.finished import Finished

SLOW, CUT, SHORT, LONG_PROMPT, USUAL = "slow", "cut", "short", "long_prompt", "usual"
CLASSES: Final = (SLOW, CUT, SHORT, LONG_PROMPT, USUAL)
"""The first that fits: over the configured time; ended by ``max_tokens``; few tokens; a long prompt; none of it."""
_SHORT_TOKENS: Final = 8
_LONG_TOKENS: Final = 2048
_HOUR_S: Final = 3600.0
_SLICE_S: Final = 600.0
# How long ago an answer was that counts 1/e of a new one when rates are estimated.
_MEMORY_S: Final = 900.0


def class_of(request: Finished, *, slow: bool) -> str:
    """An answer's class."""
    if slow:
        return SLOW
    if request.finish == "length":
        return CUT
    if not request.prompt_tokens:
        return USUAL  # the device has counted nothing: another machine answered
    if request.tokens <= _SHORT_TOKENS:
        return SHORT
    return LONG_PROMPT if request.prompt_tokens > _LONG_TOKENS else USUAL


class Sampler:
    """Keeps to ``per_hour``. Times are seconds of one monotonic clock."""

    def __init__(self, per_hour: int) -> None:
        self._per_hour = per_hour
        self._rates = {name: _Rate() for name in CLASSES}
        self._kept: collections.deque[float] = collections.deque()

    def keep(self, name: str, now: float, drawn: float) -> bool:
        """Whether to keep an answer of class ``name``; ``drawn`` is a random number in [0, 1)."""
        self._rates[name].add(now)
        if drawn >= self.probability(name, now) or not self._room(name, now):
            return False
        self._kept.append(now)
        return True

    def probability(self, name: str, now: float) -> float:
        """How likely an answer of this class is kept while there is room."""
        left = float(self._per_hour)
        rates = sorted((rate.per_hour(now), each) for each, rate in self._rates.items() if rate.seen)
        for place, (rate, each) in enumerate(rates):
            share = min(rate, left / (len(rates) - place))
            if each == name:
                return share / rate
            left -= share
        return 1.0

    def _room(self, name: str, now: float) -> bool:
        while self._kept and now - self._kept[0] >= _HOUR_S:
            self._kept.popleft()
        lately = sum(now - each < _SLICE_S for each in self._kept)
        most = math.ceil(self._per_hour * _SLICE_S / _HOUR_S)
        return len(self._kept) < self._per_hour and lately < (math.ceil(most / 2) if name == USUAL else most)


class _Rate:
    """How often something happens, of late."""

    def __init__(self) -> None:
        self._count = 0.0
        self._at = 0.0
        self.seen = False

    def add(self, now: float) -> None:
        self._count = self._decayed(now) + 1
        self._at, self.seen = now, True

    def per_hour(self, now: float) -> float:
        return max(self._decayed(now), 1e-9) * _HOUR_S / _MEMORY_S

    def _decayed(self, now: float) -> float:
        return self._count * math.exp((self._at - now) / _MEMORY_S)
