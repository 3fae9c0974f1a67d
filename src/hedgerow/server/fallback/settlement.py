"""What is written down of a request that was let through: what it cost, its audit line, its answer.

The audit line is written before the reservation is settled: what is settled is not looked at again, and a line that
stands twice after a crash is better than none.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import structs

from hedgerow.server.fallback import ledger
from hedgerow.server.fallback.audit import Line
from hedgerow.server.fallback.cache import Kept
from hedgerow.server.fallback.wire import Answer

if TYPE_CHECKING:
    from hedgerow.server.fallback.admission import Admitted
    from hedgerow.server.fallback.audit import Audit, Departure
    from hedgerow.server.fallback.cache import Cache
    from hedgerow.server.fallback.config import Policy
    from hedgerow.server.fallback.endpoint import EndpointFailed
    from hedgerow.server.fallback.ledger import Ledger
    from hedgerow.server.metrics import Metrics
    from hedgerow.server.pieces import Piece

log = logging.getLogger("hedgerow.server.fallback")


@dataclass
class Trip:
    """One request on its way. ``asked`` is what its answer is kept under, ``said`` what has come of it."""

    departure: Departure
    admitted: Admitted
    asked: bytes
    answer: Answer = field(default_factory=Answer)
    said: list[Piece] = field(default_factory=list)
    outcome: str = "cancelled"
    failure: EndpointFailed | None = None

    @property
    def left(self) -> bool:
        """Whether it may have left the site."""
        return self.failure is None or self.failure.left

    @property
    def exact(self) -> bool:
        """Whether it is known what it cost."""
        return self.answer.usage is not None or (self.failure is not None and not self.failure.billed)


class Settlement:
    """Of one model. ``broken`` is why nothing may leave any more: what left could not be written down."""

    def __init__(
        self,
        policy: Policy,
        book: Ledger,
        audit: Audit,
        cache: Cache | None,
        metrics: Metrics,
        *,
        wall: Callable[[], float],
    ) -> None:
        self._price = policy.price
        self._book = book
        self._audit = audit
        self._cache = cache
        self._metrics = metrics
        self._wall = wall
        self.broken: str | None = None

    async def settle(self, trip: Trip) -> None:
        """Write it down; failing at that sets ``broken``."""
        usage, micros = trip.answer.usage, trip.admitted.reservation.micros
        prompt_tokens, tokens = 0, trip.answer.tokens
        if usage is not None:
            prompt_tokens, tokens = usage.prompt_tokens, usage.completion_tokens
            micros = ledger.cost(self._price, prompt_tokens=prompt_tokens, tokens=tokens)
        elif trip.exact:
            micros = 0
        cost = micros / ledger.MILLION
        model = trip.departure.model
        self._metrics.fallback_tokens.labels(model, "prompt").inc(prompt_tokens)
        self._metrics.fallback_tokens.labels(model, "generated").inc(tokens)
        self._metrics.fallback_cost.labels(model).inc(cost)
        line = Line(
            **structs.asdict(trip.departure),
            outcome=trip.outcome,
            prompt_tokens=prompt_tokens,
            completion_tokens=tokens,
            cost=cost,
            exact=trip.exact,
        )
        try:
            await asyncio.to_thread(self._write, trip, line, micros)
        except (OSError, sqlite3.Error) as error:
            self.broken = str(error)
            log.error("nothing leaves any more: what left cannot be written down: %s", error)  # noqa: TRY400 - complete

    def _write(self, trip: Trip, line: Line, micros: int) -> None:
        if trip.left:
            self._audit.write(line)
        self._book.settle(trip.admitted.reservation, micros)
        if trip.outcome == "answered" and self._cache is not None:
            last = trip.said[-1]
            kept = Kept("".join(piece.text for piece in trip.said), last.finish or "", last.tokens, last.prompt_tokens)
            try:
                self._cache.put(trip.asked, kept, self._wall())
            except sqlite3.Error as error:
                log.warning("an answer cannot be kept: %s", error)
