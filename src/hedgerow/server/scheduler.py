"""Several generations on one model: each makes a token in turn, on one thread.

Generation is bound by memory bandwidth, so two at once on the same cores are no faster than two in turn; turns keep
every stream moving and need no locks around the runtime. A prompt is read in turns too, where the backend can. A new
request joins after the current round.

A job holds its model until its decoding is closed, on this thread: a caller who has left lets go of nothing that is
still in use.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from hedgerow.server.errors import Busy, Overloaded, ServingError
from hedgerow.server.stop import StopFilter

if TYPE_CHECKING:
    from hedgerow.server.backends import Decoding, TextBackend, TextRequest
    from hedgerow.server.models import Served


@dataclass(frozen=True)
class Piece:
    """Some text of an answer. The last piece has ``finish`` set: ``stop`` or ``length``."""

    text: str
    tokens: int
    prompt_tokens: int
    finish: str | None = None


@dataclass
class _Job:
    model: Served
    request: TextRequest
    loop: asyncio.AbstractEventLoop
    stop: StopFilter
    held: contextlib.ExitStack
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    decoding: Decoding | None = None
    prompt_read: bool = False
    tokens: int = 0
    cancelled: bool = False
    ended: bool = False
    ready: collections.deque[Piece | BaseException] = field(default_factory=collections.deque)
    signalled: bool = False


class Scheduler:
    """Runs generations on its own thread; ``active`` at once, ``queue`` more waiting."""

    def __init__(self, *, active: int, queue: int) -> None:
        self._active_limit = active
        self._queue_limit = queue
        self._waiting: collections.deque[_Job] = collections.deque()
        self._active: list[_Job] = []
        self._condition = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="generate", daemon=True)
        self._thread.start()

    @property
    def queue_depth(self) -> int:
        """Requests that wait for their turn to begin."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Generations that take turns now."""
        return len(self._active)

    async def generate(self, model: Served, request: TextRequest) -> AsyncGenerator[list[Piece], None]:
        """Yield an answer's pieces, all that are ready at once; leaving early cancels it before its next token.

        Raises:
            Busy: too many requests wait already.
            BadRequest: the prompt does not fit.
        """
        job = self._enqueue(model, request)
        try:
            while True:
                await job.wake.wait()
                job.wake.clear()
                job.signalled = False
                batch, failure = _take(job.ready)
                if batch:
                    yield batch
                    if batch[-1].finish is not None:
                        return
                if failure is not None:
                    raise failure
        finally:
            job.cancelled = True

    def close(self) -> None:
        """Stop the thread; what still runs ends with an error."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _enqueue(self, model: Served, request: TextRequest) -> _Job:
        with self._condition:
            if self._closing:
                raise Overloaded("the server is stopping")
            # Those whose callers have left make room, and those that have ended but not left the round.
            inside = sum(not (job.cancelled or job.ended) for job in (*self._active, *self._waiting))
            if inside >= self._active_limit + self._queue_limit:
                raise Busy(f"{inside - self._active_limit} requests wait already")
            held = contextlib.ExitStack()
            held.enter_context(model.hold())
            job = _Job(model, request, asyncio.get_running_loop(), StopFilter(request.stop), held)
            self._waiting.append(job)
            self._condition.notify()
        return job

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self._waiting or self._active or self._closing):
                    self._condition.wait()
                if self._closing:
                    break
                while self._waiting and len(self._active) < self._active_limit:
                    self._active.append(self._waiting.popleft())
            self._active = [job for job in self._active if self._advance(job)]
        for job in (*self._active, *self._waiting):
            self._end(job, Overloaded("the server is stopping"))

    def _advance(self, job: _Job) -> bool:
        """A turn for ``job``: a part of its prompt, or a token; False when it has ended."""
        if job.cancelled:
            return self._end(job, None)
        try:
            if job.decoding is None:
                job.decoding = cast("TextBackend", job.model.backend).begin(job.request)
            if not job.prompt_read:
                job.prompt_read = job.decoding.read()
                return True
            text = job.decoding.step()
        except ServingError as error:
            return self._end(job, error)
        except Exception as error:  # noqa: BLE001 - the thread must outlive any one request
            return self._end(job, ServingError(f"generation failed: {error}"))
        return self._token(job, job.decoding, text)

    def _token(self, job: _Job, decoding: Decoding, text: str | None) -> bool:
        if text is None:
            return self._end(job, _piece(job, job.stop.rest(), "length" if decoding.truncated else "stop"))
        job.tokens += 1
        clear = job.stop.feed(text)
        if job.stop.met:
            return self._end(job, _piece(job, clear, "stop"))
        if job.tokens >= job.request.max_tokens:
            return self._end(job, _piece(job, clear + job.stop.rest(), "length"))
        # A token without text (half a character) still counts as progress for the stream's statistics.
        self._put(job, _piece(job, clear, None))
        return True

    def _end(self, job: _Job, last: Piece | BaseException | None) -> bool:
        if job.decoding is not None:
            job.decoding.close()
            job.decoding = None
        job.held.close()
        job.ended = True
        if last is not None:
            self._put(job, last)
        return False

    def _put(self, job: _Job, item: Piece | BaseException) -> None:
        job.ready.append(item)
        # One wake-up a batch: while the loop has not looked yet, further tokens just join the queue.
        if not job.signalled:
            job.signalled = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                job.loop.call_soon_threadsafe(job.wake.set)


def _take(ready: collections.deque[Piece | BaseException]) -> tuple[list[Piece], BaseException | None]:
    """All pieces that are ready, and the error behind them if there is one."""
    batch: list[Piece] = []
    while ready:
        item = ready.popleft()
        if isinstance(item, BaseException):
            return batch, item
        batch.append(item)
    return batch, None


def _piece(job: _Job, text: str, finish: str | None) -> Piece:
    return Piece(text, job.tokens, 0 if job.decoding is None else job.decoding.prompt_tokens, finish)
