"""An answer from elsewhere for a request that should leave: kept from before, or the endpoint's.

The order: scrubbed; answered from the cache; else admitted (breaker, rate, cap), sent, and settled with its audit line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from hedgerow.server.errors import DeadlineExceeded, ServingError
from hedgerow.server.fallback.admission import Admission, Refused
from hedgerow.server.fallback.audit import Departure
from hedgerow.server.fallback.config import Privacy
from hedgerow.server.fallback.endpoint import EndpointFailed, next_within
from hedgerow.server.fallback.scrub import Scrubbed, scrub
from hedgerow.server.fallback.settlement import Settlement, Trip
from hedgerow.server.fallback.tasks import Tasks
from hedgerow.server.fallback.wire import Outgoing, outgoing
from hedgerow.server.pieces import Piece

if TYPE_CHECKING:
    from hedgerow.server.backends import TextRequest
    from hedgerow.server.fallback.audit import Audit
    from hedgerow.server.fallback.breaker import Breaker
    from hedgerow.server.fallback.cache import Cache, Kept
    from hedgerow.server.fallback.config import Policy
    from hedgerow.server.fallback.decision import Reason
    from hedgerow.server.fallback.endpoint import Endpoint
    from hedgerow.server.fallback.keys import Keys
    from hedgerow.server.fallback.ledger import Ledger
    from hedgerow.server.fallback.rate import Rate
    from hedgerow.server.metrics import Metrics

log = logging.getLogger("hedgerow.server.fallback")


@dataclass(frozen=True)
class Gate:
    """An endpoint and what guards it, shared by the models that use it."""

    endpoint: Endpoint
    breaker: Breaker
    rate: Rate


@dataclass(frozen=True)
class Files:
    """What is kept on the disk, shared by all models."""

    keys: Keys
    ledger: Ledger
    audit: Audit
    cache: Cache | None


class Remote:
    """Answers for the one model ``name``. ``wall`` is seconds since 1970."""

    def __init__(
        self, name: str, policy: Policy, gate: Gate, files: Files, metrics: Metrics, *, wall: Callable[[], float]
    ) -> None:
        self._name = name
        self._policy = policy
        self._endpoint = gate.endpoint
        self._breaker = gate.breaker
        self._keys = files.keys
        self._cache = files.cache
        self._metrics = metrics
        self._wall = wall
        self._tasks = Tasks()
        self._admission = Admission(policy, gate.breaker, gate.rate, files.ledger, self._tasks, wall=wall)
        self._settlement = Settlement(policy, files.ledger, files.audit, files.cache, metrics, wall=wall)

    async def answer(
        self, request: TextRequest, reason: Reason, *, deadline: float
    ) -> AsyncGenerator[list[Piece], None]:
        """Yield its pieces; none at all where it may not leave, or the endpoint fails before the first.

        Leaving early cancels it. ``deadline`` is a time of the running loop.

        Raises:
            ServingError: the answer broke off.
            DeadlineExceeded
        """
        outcome = "cancelled"
        try:
            scrubbed = await asyncio.to_thread(self._scrubbed, request)
            sent = outgoing(scrubbed.request, self._policy)
            asked = self._keys.lookup_of(msgspec.json.encode([self._endpoint.name, sent.path, sent.body]))
            kept = await self._kept(asked)
            if kept is not None:
                outcome = "cached"
                yield [Piece(kept.text, kept.tokens, kept.prompt_tokens, kept.finish)]
                return
            trip = await self._admitted(sent, scrubbed, reason, asked)
            try:
                async for batch in self._sent(trip, sent, deadline):
                    yield batch
            finally:
                outcome = trip.outcome
        except Refused as refused:
            outcome = refused.outcome
        finally:
            self._metrics.fallback_requests.labels(self._name, reason.value, outcome).inc()

    async def close(self) -> None:
        """Wait until all that left is written down."""
        await self._tasks.all()

    def _scrubbed(self, request: TextRequest) -> Scrubbed:
        if self._policy.privacy is Privacy.ALL:
            return Scrubbed(request, {}, stop_kept=True)
        scrubbed = scrub(request, self._policy.words)
        if not scrubbed.stop_kept:
            # A stop text with a placeholder in it would stop nothing.
            raise Refused("refused_privacy")
        return scrubbed

    async def _kept(self, asked: bytes) -> Kept | None:
        if self._cache is None:
            return None
        try:
            return await asyncio.to_thread(self._cache.get, asked, self._wall())
        except sqlite3.Error as error:
            log.warning("the cache of answers cannot be read: %s", error)
            return None

    async def _admitted(self, sent: Outgoing, scrubbed: Scrubbed, reason: Reason, asked: bytes) -> Trip:
        if self._settlement.broken is not None:
            raise Refused("refused_audit")
        request = scrubbed.request
        said = request.prompt if request.messages is None else list(request.messages)
        departure = Departure(
            time=datetime.fromtimestamp(self._wall(), UTC),
            model=self._name,
            endpoint=self._endpoint.name,
            endpoint_model=self._policy.model,
            reason=reason.value,
            prompt_hmac_sha256=self._keys.fingerprint(msgspec.json.encode(said)),
            redactions=dict(scrubbed.found),
            bytes=len(sent.body),
        )
        admitted = await self._admission.admit(departure, prompt_tokens=sent.prompt_tokens, max_tokens=sent.max_tokens)
        return Trip(departure, admitted, asked)

    async def _sent(self, trip: Trip, sent: Outgoing, deadline: float) -> AsyncGenerator[list[Piece], None]:
        pieces = self._endpoint.ask(sent, trip.answer)
        try:
            async with contextlib.aclosing(pieces):
                while (batch := await next_within(pieces, deadline)) is not None:
                    trip.said += batch
                    if batch[-1].finish is not None:
                        trip.outcome = "answered"
                    yield batch
        except TimeoutError as error:
            trip.outcome = "deadline"
            raise DeadlineExceeded("the time was over before the fallback's answer ended") from error
        except EndpointFailed as failed:
            trip.failure = failed
            trip.outcome = "broken" if trip.said else "failed"
            log.warning("%s: endpoint %s %s", self._name, self._endpoint.name, failed)
            if trip.said:
                raise ServingError("the fallback's answer broke off") from failed
        finally:
            self._learn(trip)
            # A caller who leaves must not keep what left from being written down.
            await asyncio.shield(self._tasks.start(self._settlement.settle(trip)))

    def _learn(self, trip: Trip) -> None:
        permit = trip.admitted.permit
        if trip.failure is not None and trip.failure.sick:
            self._breaker.failed(permit, time.monotonic())
        elif trip.said or trip.failure is not None:
            self._breaker.succeeded(permit)
        else:
            self._breaker.released(permit)
        closed = self._breaker.state(time.monotonic()) == "closed"
        self._metrics.fallback_open.labels(self._endpoint.name).set(0 if closed else 1)
