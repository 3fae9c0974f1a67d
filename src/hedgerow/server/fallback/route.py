"""A model's way out: the device answers, unless its policy sends the request elsewhere and an answer comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Protocol

from hedgerow.server.errors import ServingError
from hedgerow.server.fallback import decision
from hedgerow.server.fallback.own import OwnAnswer

if TYPE_CHECKING:
    from hedgerow.device.health import Code
    from hedgerow.server.backends import TextRequest
    from hedgerow.server.fallback.config import Policy
    from hedgerow.server.fallback.decision import Reason
    from hedgerow.server.fallback.remote import Remote
    from hedgerow.server.pieces import Piece

    Pieces = AsyncGenerator[list[Piece], None]


class Device(Protocol):
    """The device's side of one request."""

    @property
    def takes_requests(self) -> bool:
        """Whether it is neither drained nor stopping."""

    @property
    def in_service(self) -> bool:
        """Whether a version of the model is."""

    @property
    def expected_wait_s(self) -> float:
        """Until its turn."""

    def waits(self) -> bool:
        """Whether what ``generate`` began still waits for its turn."""

    def generate(self, timeout_s: float, *, weigh: bool) -> Pieces:
        """Its own answer; ``weigh``: with the probabilities of its tokens, where its backend tells them."""

    def answered_elsewhere(self, *, failed: bool) -> None:
        """Another machine answers; ``failed``: since this one could not."""


class Route:
    """Of one model. ``health``: the health report's reasons now."""

    def __init__(self, policy: Policy, remote: Remote, *, health: Callable[[], Awaitable[Collection[Code]]]) -> None:
        self._policy = policy
        self._remote = remote
        self._health = health

    def may_leave(self, request: TextRequest, *, version: str | None) -> bool:
        """Whether anything could make this request leave."""
        return decision.may_leave(self._policy, request, version=version)

    async def generate(self, request: TextRequest, device: Device, *, timeout_s: float) -> Pieces:
        """Yield the answer's pieces, the device's or those from elsewhere; leaving early cancels both.

        Raises:
            ServingError: the device's own, where there is no answer from elsewhere; or that one broke off.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        own: OwnAnswer | None = None
        error: ServingError | None = None
        try:
            reason = decision.before(self._policy.when, await self._situation(request, device))
            if reason is None:
                own = OwnAnswer(device.generate(timeout_s, weigh=self._policy.when.confidence is not None))
                reason, error = await self._trouble(own, device)
            if reason is not None:
                answer = self._remote.answer(request, reason, deadline=deadline)
                async with contextlib.aclosing(answer):
                    answered = False
                    async for batch in answer:
                        if not answered:
                            answered = True
                            device.answered_elsewhere(failed=reason is decision.Reason.DEVICE_ERROR)
                            await _close(own)
                        yield batch
                    if answered:
                        return
            if error is not None:
                raise error
            if own is None:
                own = OwnAnswer(device.generate(max(0.0, deadline - loop.time()), weigh=False))
            async for batch in own.all():
                yield batch
        finally:
            await _close(own)

    async def close(self) -> None:
        """Wait until all that left is written down."""
        await self._remote.close()

    async def _situation(self, request: TextRequest, device: Device) -> decision.Situation:
        texts = [request.prompt or ""] if request.messages is None else [each["content"] for each in request.messages]
        health = await self._health() if self._policy.when.health else ()
        return decision.Situation(sum(map(len, texts)), device.in_service, device.expected_wait_s, health)

    async def _trouble(self, own: OwnAnswer, device: Device) -> tuple[Reason | None, ServingError | None]:
        """Why the device's answer, which has begun to be made, is not to be waited for; its error, if it has one.

        Raises:
            ServingError: which is the answer.
        """
        when = self._policy.when
        try:
            if not await own.begins(when.queue_s, device.waits):
                return decision.Reason.QUEUE_TIME, None
            if when.confidence is not None:
                return decision.unsure(when, await own.weigh(when.confidence.tokens)), None
        except ServingError as error:
            reason = decision.after(when, error) if device.takes_requests else None
            if reason is None:
                raise
            return reason, error
        return None, None


async def _close(own: OwnAnswer | None) -> None:
    if own is not None:
        await own.close()
