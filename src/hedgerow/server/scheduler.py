"""Several generations on one model: each makes a token in turn, on one thread.

Generation is bound by memory bandwidth, so two at once on the same cores are no
faster than two in turn; turns keep every stream moving and need no locks around
the runtime. A new request joins after the current round.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hedgerow.server.errors import Overloaded, ServingError

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
    wake: asyncio.Event
    decoding: Decoding | None = None
    tokens: int = 0
    held: str = ""
    cancelled: bool = False
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

    async def generate(self, model: Served, request: TextRequest) -> AsyncGenerator[Piece, None]:
        """Yield an answer's pieces; leaving the iterator early cancels the generation at its next token.

        Raises:
            Overloaded: too many requests wait already.
            BadRequest: the prompt does not fit.
        """
        job = _Job(model, request, asyncio.get_running_loop(), asyncio.Event())
        with self._condition:
            if len(self._waiting) >= self._queue_limit:
                raise Overloaded(f"{len(self._waiting)} requests wait already")
            self._waiting.append(job)
            self._condition.notify()
        try:
            while True:
                await job.wake.wait()
                job.wake.clear()
                job.signalled = False
                while job.ready:
                    piece = job.ready.popleft()
                    if isinstance(piece, BaseException):
                        raise piece
                    yield piece
                    if piece.finish is not None:
                        return
        finally:
            job.cancelled = True

    def close(self) -> None:
        """Stop the thread; what still runs ends with an error."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

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

    def _advance(self, job: _Job) -> bool:  # noqa: PLR0911 - one return an outcome
        """One token for ``job``; False when it has ended."""
        try:
            if job.cancelled:
                return self._end(job, None)
            if job.decoding is None:
                backend: TextBackend = job.model.backend  # type: ignore[assignment] # the data plane checked
                job.decoding = backend.begin(job.request)
            text = job.decoding.step()
        except ServingError as error:
            return self._end(job, error)
        except Exception as error:  # noqa: BLE001 - the thread must outlive any one request
            return self._end(job, ServingError(f"generation failed: {error}"))
        if text is None:
            return self._finish(job, "length" if job.decoding.truncated else "stop")
        job.tokens += 1
        text = job.held + text
        stopped = _first(text, job.request.stop)
        if stopped is not None:
            job.held = text[:stopped]
            return self._finish(job, "stop")
        if job.tokens >= job.request.max_tokens:
            job.held = text
            return self._finish(job, "length")
        keep = _may_begin_stop(text, job.request.stop)
        job.held = text[len(text) - keep :]
        # A token without text (half a character) still counts as progress for the stream's statistics.
        self._put(job, self._piece(job, text[: len(text) - keep], None))
        return True

    def _finish(self, job: _Job, finish: str) -> bool:
        return self._end(job, self._piece(job, job.held, finish))

    def _piece(self, job: _Job, text: str, finish: str | None) -> Piece:
        prompt = 0 if job.decoding is None else job.decoding.prompt_tokens
        return Piece(text, job.tokens, prompt, finish)

    def _end(self, job: _Job, last: Piece | BaseException | None) -> bool:
        if job.decoding is not None:
            job.decoding.close()
            job.decoding = None
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


def _first(text: str, stops: tuple[str, ...]) -> int | None:
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return min(places) if places else None


def _may_begin_stop(text: str, stops: tuple[str, ...]) -> int:
    """How many characters at the end of ``text`` could be the beginning of a stop text."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest
