"""``ModelInfer`` and each request of ``ModelStreamInfer`` on the data plane: tensors, or texts in parts."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Final

from hedgerow.server.errors import NotFound, Starting
from hedgerow.server.protocols.grpc import answers, contents, requests, texts

if TYPE_CHECKING:
    from hedgerow.server.config import Limits
    from hedgerow.server.dataplane import DataPlane
    from hedgerow.server.pieces import Piece
    from hedgerow.server.protocols.grpc import messages, wire

PROTOCOL: Final = "grpc"
# The parameters by which Triton's streams say that a request has no more answers, and why an answer ended.
FINAL: Final = "triton_final_response"
FINISH: Final = "finish_reason"


class Inference:
    """Answers requests; ``remaining_s`` is what a call's deadline leaves."""

    def __init__(self, plane: DataPlane, limits: Limits) -> None:
        self._plane = plane
        self._limits = limits

    def takes_text(self, name: str, version: str | None) -> bool:
        """Whether it is a text model, served here or, while nothing is in service, where its requests may go instead.

        Raises:
            Starting: nothing is in service yet.
        """
        try:
            return hasattr(self._plane.served(name, version).backend, "begin")
        except (NotFound, Starting) as error:
            # Policies for other machines are of text models alone.
            fallback = self._plane.fallback if self._plane.serving(name) is None else None
            if fallback is not None and fallback.route(name) is not None:
                return True
            if isinstance(error, Starting):
                raise
            return False

    async def one(self, request: wire.Request, remaining_s: float | None) -> messages.ModelInferResponse:
        """The whole answer.

        Raises:
            ServingError
        """
        await self._plane.bring(request.model_name)
        if not self.takes_text(request.model_name, request.model_version or None):
            return await self._tensors(request, remaining_s)
        async for answer in self._texts(request, remaining_s, whole=True):
            return answer
        raise AssertionError("a generation ends with a piece")

    async def many(
        self, request: wire.Request, remaining_s: float | None
    ) -> AsyncIterator[messages.ModelInferResponse]:
        """The answer in as many parts as there are; the last one says so.

        Raises:
            ServingError
        """
        await self._plane.bring(request.model_name)
        if self.takes_text(request.model_name, request.model_version or None):
            async with contextlib.aclosing(self._texts(request, remaining_s, whole=False)) as parts:
                async for answer in parts:
                    yield answer
        else:
            answer = await self._tensors(request, remaining_s)
            answer.parameters[FINAL].bool_param = True
            yield answer

    async def _tensors(self, request: wire.Request, remaining_s: float | None) -> messages.ModelInferResponse:
        asked = requests.read(request, remaining_s=remaining_s)
        response = await self._plane.infer(asked, protocol=PROTOCOL)
        return answers.inferred(response, typed=contents.is_typed(request))

    async def _texts(
        self, request: wire.Request, remaining_s: float | None, *, whole: bool
    ) -> AsyncGenerator[messages.ModelInferResponse, None]:
        asked = texts.read(request, self._limits, remaining_s=remaining_s)
        served = self._plane.serving(request.model_name)
        version = request.model_version or ("" if served is None else served.version)
        generation = self._plane.generate(
            request.model_name, asked.request, protocol=PROTOCOL, version=request.model_version or None
        )
        typed = contents.is_typed(request)
        held: list[Piece] = []
        async with contextlib.aclosing(generation) as batches:
            async for batch in batches:
                held += batch
                last = batch[-1].finish is not None
                if not last and (whole or not asked.stream):
                    continue
                answer = answers.inferred(
                    texts.answer(request.model_name, version, held, identity=request.id), typed=typed
                )
                held = []
                answer.parameters[FINAL].bool_param = last
                if last:
                    answer.parameters[FINISH].string_param = batch[-1].finish or ""
                yield answer
