"""``ModelStreamInfer``: any number of requests on one stream, each with any number of answers.

- Answers of text models come as their tokens do, those of several requests mixed: callers tell them by their id.
- Answers of tensor models come in the order of their requests.
- What goes wrong with a request is said in its answer; the stream goes on.
- A caller who leaves cancels everything that runs for the stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Final

from hedgerow.server.errors import ServingError
from hedgerow.server.protocols.grpc import messages

if TYPE_CHECKING:
    from hedgerow.server.protocols.grpc import wire

log = logging.getLogger("hedgerow.server")
# Requests of one stream that are worked on, and answers that wait for a slow reader.
_AT_ONCE: Final = 32
_BUFFERED: Final = 64

Answers = Callable[["wire.Request"], AsyncIterator[messages.ModelInferResponse]]


class InferStream:
    """One stream. ``answers`` gives a request's answers; ``in_order``: whether they wait for those of earlier ones.

    An instance serves once.
    """

    def __init__(self, answers: Answers, in_order: Callable[[wire.Request], bool]) -> None:
        self._answers = answers
        self._in_order = in_order
        self._ready: asyncio.Queue[messages.ModelStreamInferResponse | None] = asyncio.Queue(_BUFFERED)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._reading: asyncio.Task[None] | None = None
        self._closed = False

    async def serve(
        self,
        requests: AsyncIterator[wire.Request],
        write: Callable[[messages.ModelStreamInferResponse], Awaitable[None]],
    ) -> None:
        """Answer ``requests`` until they end, and all that were taken are answered."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take(requests))
            while (answer := await self._ready.get()) is not None:
                await write(answer)

    def close(self) -> None:
        """Take no more requests; those that were taken are answered."""
        self._closed = True
        if self._reading is not None:
            self._reading.cancel()

    async def _take(self, requests: AsyncIterator[wire.Request]) -> None:
        async with asyncio.TaskGroup() as running:
            if not self._closed:
                self._reading = running.create_task(self._read(requests, running))
        await self._ready.put(None)

    async def _read(self, requests: AsyncIterator[wire.Request], running: asyncio.TaskGroup) -> None:
        turn = asyncio.Event()
        turn.set()
        async for request in requests:
            await self._slots.acquire()
            if self._in_order(request):
                before, turn = turn, asyncio.Event()
                running.create_task(self._one(request, before, turn))
            else:
                running.create_task(self._one(request))

    async def _one(
        self,
        request: wire.Request,
        before: asyncio.Event | None = None,
        after: asyncio.Event | None = None,
    ) -> None:
        try:
            async for answer in self._answers(request):
                if before is not None:
                    await before.wait()
                await self._ready.put(messages.ModelStreamInferResponse(infer_response=answer))
        except ServingError as error:
            await self._failed(request, error.text, before)
        except Exception:
            log.exception("a request of a stream failed")
            await self._failed(request, "the server failed", before)
        finally:
            if after is not None:
                after.set()
            self._slots.release()

    async def _failed(self, request: wire.Request, text: str, before: asyncio.Event | None) -> None:
        if before is not None:
            await before.wait()
        which = messages.ModelInferResponse(
            model_name=request.model_name, model_version=request.model_version, id=request.id
        )
        await self._ready.put(messages.ModelStreamInferResponse(error_message=text, infer_response=which))
