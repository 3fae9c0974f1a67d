"""Whether a request may be sent just now: the breaker, the rate, the hour's cap, in this order.

What one lets through and the next refuses is given back; a reservation is on the disk before the request is sent.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hedgerow.server.fallback import ledger

if TYPE_CHECKING:
    from hedgerow.server.fallback.audit import Departure
    from hedgerow.server.fallback.breaker import Breaker, Permit
    from hedgerow.server.fallback.config import Policy
    from hedgerow.server.fallback.ledger import Ledger, Reservation
    from hedgerow.server.fallback.rate import Rate
    from hedgerow.server.fallback.tasks import Tasks

log = logging.getLogger("hedgerow.server.fallback")


class Refused(Exception):
    """It may not leave just now, so the device answers; ``outcome`` is the metrics' word."""

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


@dataclass(frozen=True)
class Admitted:
    """Leave to send one request. Both parts are given back once: to the breaker, and to the ledger."""

    permit: Permit
    reservation: Reservation


class Admission:
    """Of one model to one endpoint."""

    def __init__(
        self, policy: Policy, breaker: Breaker, rate: Rate, book: Ledger, tasks: Tasks, *, wall: Callable[[], float]
    ) -> None:
        self._price = policy.price
        self._cap = int(policy.spend_per_hour * ledger.MILLION)
        self._breaker = breaker
        self._rate = rate
        self._book = book
        self._tasks = tasks
        self._wall = wall

    async def admit(self, departure: Departure, *, prompt_tokens: int, max_tokens: int) -> Admitted:
        """``prompt_tokens`` and ``max_tokens`` are the most that it can take.

        Raises:
            Refused
        """
        permit = self._breaker.admit(time.monotonic())
        if permit is None:
            raise Refused("refused_breaker")
        try:
            reservation = await self._reserved(departure, prompt_tokens, max_tokens)
        except BaseException:
            self._breaker.released(permit)
            raise
        return Admitted(permit, reservation)

    async def _reserved(self, departure: Departure, prompt_tokens: int, max_tokens: int) -> Reservation:
        if not self._rate.take(time.monotonic()):
            raise Refused("refused_rate")
        most = ledger.cost(self._price, prompt_tokens=prompt_tokens, tokens=max_tokens)
        reserving = self._tasks.start(
            asyncio.to_thread(self._book.reserve, departure, most, cap=self._cap, now=self._wall())
        )
        try:
            reservation = await asyncio.shield(reserving)
        except asyncio.CancelledError:
            # The caller left; what is reserved meanwhile would stand there as if it had been sent.
            reserving.add_done_callback(self._give_back)
            raise
        except sqlite3.Error as error:
            log.error("nothing leaves: the ledger of spending cannot be written: %s", error)  # noqa: TRY400 - complete
            raise Refused("refused_spend") from error
        if reservation is None:
            raise Refused("refused_spend")
        return reservation

    def _give_back(self, reserving: asyncio.Task[Reservation | None]) -> None:
        if reserving.cancelled() or reserving.exception() is not None:
            return
        reservation = reserving.result()
        if reservation is not None:
            self._tasks.start(asyncio.to_thread(self._book.settle, reservation, 0))
