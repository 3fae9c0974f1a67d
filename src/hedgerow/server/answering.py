"""Text requests: answered by the device's own model, or elsewhere where the model's policy lets them leave."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from hedgerow.server.errors import BadRequest, NotFound
from hedgerow.server.pieces import Piece
from hedgerow.server.scheduler import Scheduler

if TYPE_CHECKING:
    from hedgerow.server.backends import TextRequest
    from hedgerow.server.config import Limits
    from hedgerow.server.dataplane import DataPlane
    from hedgerow.server.recording import Record


class Texts:
    """Answers of the text models that ``plane`` serves; ``scheduler`` is what they are computed on."""

    def __init__(self, plane: DataPlane, scheduler: Scheduler, limits: Limits) -> None:
        self._plane = plane
        self._scheduler = scheduler
        self._limits = limits

    def answer(
        self, name: str, request: TextRequest, record: Record, version: str | None
    ) -> AsyncGenerator[list[Piece], None]:
        """Yield an answer's pieces, all that are ready at once; leaving early cancels it.

        Raises:
            NotFound, BadRequest, Overloaded: before the first piece.
        """
        fallback = self._plane.fallback
        route = None if fallback is None or self._plane.draining else fallback.route(name)
        if route is None or not route.may_leave(request, version=version):
            return self.own_answer(name, request, record, version)
        return route.generate(
            request,
            _Device(self._plane, self, name, request, record),
            timeout_s=self._limits.timeout_s(request.timeout_s),
        )

    async def own_answer(
        self, name: str, request: TextRequest, record: Record, version: str | None, *, weigh: bool = False
    ) -> AsyncGenerator[list[Piece], None]:
        """The same, by the device's own model; ``weigh``: with probabilities, if whoever answers can tell them."""
        with await self._plane.hold(name, version, request.adapter) as model:
            record.served_by(model)
            if not hasattr(model.backend, "begin"):
                raise BadRequest(f"model '{name}' takes tensors: POST /v2/models/{name}/infer", field="model")
            if request.adapter is not None and request.adapter not in getattr(model.backend, "adapters", ()):
                raise NotFound(f"model '{name}' has no adapter '{request.adapter}'", field="model")
            tells = getattr(model.backend, "logprobs", False)
            if request.logprobs and not tells:
                raise BadRequest(f"the backend of model '{name}' tells no probabilities of tokens", field="logprobs")
            if weigh and tells:
                request = dataclasses.replace(request, logprobs=True)
            degradation = self._plane.degradation
            canned = degradation.canned(model)
            if canned is not None:
                yield [Piece(canned, 0, 0, "stop")]
                return
            timeout_s = self._limits.timeout_s(request.timeout_s)
            request = dataclasses.replace(degradation.shortened(request, model), timeout_s=timeout_s)
            record.waits = lambda: self._scheduler.waits(request)
            pieces = self._scheduler.generate(model, request, record.progress)
            async with contextlib.aclosing(pieces):
                async for batch in pieces:
                    record.note(batch[-1])
                    yield batch

    def expected_wait_s(self, name: str) -> float:
        """Until a request's turn on the device's own model."""
        return self._scheduler.expected_wait_s(name)


class _Device:
    """The device's side of a text request that may leave (``hedgerow.server.fallback.route.Device``)."""

    def __init__(self, plane: DataPlane, texts: Texts, name: str, request: TextRequest, record: Record) -> None:
        self._plane = plane
        self._texts = texts
        self._name = name
        self._request = request
        self._record = record

    @property
    def takes_requests(self) -> bool:
        return not self._plane.draining

    @property
    def in_service(self) -> bool:
        return self._plane.serving(self._name) is not None

    @property
    def expected_wait_s(self) -> float:
        return self._texts.expected_wait_s(self._name)

    def waits(self) -> bool:
        return self._record.waits()

    def generate(self, timeout_s: float, *, weigh: bool) -> AsyncGenerator[list[Piece], None]:
        request = dataclasses.replace(self._request, timeout_s=timeout_s)
        return self._texts.own_answer(self._name, request, self._record, None, weigh=weigh)

    def answered_elsewhere(self, *, failed: bool) -> None:
        self._record.answered_elsewhere(failed=failed)
