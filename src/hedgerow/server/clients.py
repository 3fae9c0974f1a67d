"""How much each client may ask: requests a second, and requests at once. A client is a certificate's common name.

Without it one application that loops takes every place in the queue, and the others are told that the server is full.
Whoever comes by a door without certificates has no name, and is not held to anything: on loopback there is one
machine's own, and the queue.

The rate is the generic cell rate algorithm (ITU-T I.371, annex A, "virtual scheduling"): of each client one number is
kept, when its next request would be on time if it kept to its rate; ``burst`` says how far ahead of that it may be.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct

from hedgerow.server.errors import RateLimited

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

# A client that does nothing is forgotten once so many are known: it has all of its burst again by then.
_KNOWN: Final = 1024
_NOBODY: Final = contextlib.nullcontext()


class PerClient(Struct, frozen=True, forbid_unknown_fields=True):
    """``per_second`` requests in the long run, ``burst`` of them together; ``at_once`` that run or wait.

    None: no limit.
    """

    per_second: Annotated[float, Meta(gt=0)] | None = None
    burst: Annotated[int, Meta(ge=1)] = 10
    at_once: Annotated[int, Meta(ge=1)] | None = None


@dataclass(eq=False)
class _Known:
    """``due``: when the next request is on time, in seconds of the clock. ``inside``: those that have not ended."""

    due: float = -math.inf
    inside: int = 0


class Clients:
    """Holds each to ``rules``; used from one event loop. ``clock`` is monotonic seconds.

    ``limited``: whether there is anything to hold them to.
    """

    def __init__(self, rules: PerClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self.limited = rules.per_second is not None or rules.at_once is not None

    def look(self, client: str) -> None:
        """Refuse what ``admit`` would, before anybody reads the request's body. Nothing is counted.

        Raises:
            RateLimited
        """
        if self.limited and client and (known := self._known.get(client)) is not None:
            self._check(client, known, self._clock())

    def admit(self, client: str) -> AbstractContextManager[None]:
        """One request of ``client``, while it runs. "" is nobody in particular.

        Raises:
            RateLimited: when it is entered.
        """
        return self._inside(client) if self.limited and client else _NOBODY

    @contextlib.contextmanager
    def _inside(self, client: str) -> Iterator[None]:
        now = self._clock()
        known = self._known.get(client)
        if known is None:
            self._forget(now)
            known = self._known[client] = _Known()
        self._check(client, known, now)
        if self._rules.per_second is not None:
            known.due = max(known.due, now) + 1 / self._rules.per_second
        known.inside += 1
        try:
            yield
        finally:
            known.inside -= 1

    def _check(self, client: str, known: _Known, now: float) -> None:
        rules = self._rules
        if rules.at_once is not None and known.inside >= rules.at_once:
            raise RateLimited(f"{client} has {known.inside} requests here already; {rules.at_once} may be at once")
        if rules.per_second is None:
            return
        wait_s = known.due - now - (rules.burst - 1) / rules.per_second
        if wait_s > 0:
            raise RateLimited(
                f"{client} asks more than {rules.per_second:g} times a second",
                retry_after_s=max(1, math.ceil(wait_s)),
            )

    def _forget(self, now: float) -> None:
        if len(self._known) >= _KNOWN:
            self._known = {name: each for name, each in self._known.items() if each.inside or each.due > now}
