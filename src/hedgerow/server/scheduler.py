"""Several generations on one model: each makes a token in turn, on the model's own thread.

Generation is bound by memory bandwidth, so two at once on the same cores are no faster than two in turn; turns keep
every stream moving and need no locks around the runtime. A prompt is read in turns too, where the backend can. A new
request joins after the current round.

Invariants:

- A model has its own lane: its own thread, places and queue. A slow one takes no turn from another. The thread lives
  while there is work.
- Of those that wait, the most urgent begins first, the oldest of equals.
- A job holds its model until its decoding is closed, on that thread: a caller who has left lets go of nothing that is
  still in use. Who waits for one that is too late leaves it, and so ends it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import math
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from hedgerow.server.batching import NORMAL
from hedgerow.server.errors import Busy, DeadlineExceeded, Overloaded, ServingError
from hedgerow.server.pieces import Piece, Said
from hedgerow.server.progress import Progress
from hedgerow.server.stop import StopFilter

if TYPE_CHECKING:
    from hedgerow.server.backends import Decoding, TextBackend, TextRequest, WeighingDecoding
    from hedgerow.server.models import Served

_NEWEST = 0.2
_LONGEST_WAIT_S = 60


@dataclass(eq=False)
class _Job:
    model: Served
    request: TextRequest
    number: int
    loop: asyncio.AbstractEventLoop
    stop: StopFilter
    held: contextlib.ExitStack
    progress: Progress
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    decoding: Decoding | None = None
    prompt_read: bool = False
    began: float = 0.0
    tokens: int = 0
    cancelled: bool = False
    ended: bool = False
    ready: collections.deque[Piece | BaseException] = field(default_factory=collections.deque)
    signalled: bool = False

    @property
    def order(self) -> tuple[int, int]:
        return (self.request.priority or NORMAL, self.number)


class Scheduler:
    """Runs generations; of each model ``active`` at once, ``queue`` more waiting. Used from one event loop."""

    def __init__(self, *, active: int, queue: int) -> None:
        self._active_limit = active
        self._queue_limit = queue
        self._lanes: dict[str, _Lane] = {}
        self._numbers = itertools.count()
        self._closing = False

    @property
    def queue_depth(self) -> int:
        """Requests that wait for their turn to begin."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    @property
    def active(self) -> int:
        """Generations that take turns now."""
        return sum(len(lane.active) for lane in self._lanes.values())

    def expected_wait_s(self, name: str) -> float:
        """How long a request for model ``name`` would wait for its turn, as those before it took; 0 at first."""
        lane = self._lanes.get(name)
        return 0.0 if lane is None else lane.expected_wait_s()

    def waits(self, request: TextRequest) -> bool:
        """Whether this very request still waits for its turn."""
        return any(lane.waits(request) for lane in self._lanes.values())

    async def generate(
        self, model: Served, request: TextRequest, progress: Progress | None = None
    ) -> AsyncGenerator[list[Piece], None]:
        """Yield an answer's pieces, all that are ready at once; leaving early cancels it before its next token.

        ``progress`` is told when its turn begins.

        Raises:
            Busy: too many requests for this model wait already.
            BadRequest: the prompt does not fit.
            DeadlineExceeded: ``request.timeout_s`` is over.
        """
        job = self._enqueue(model, request, progress or Progress())
        deadline = None if request.timeout_s is None else job.loop.time() + request.timeout_s
        try:
            while True:
                await _woken(job, deadline)
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
        """Stop the threads; what still runs ends with an error."""
        self._closing = True
        for lane in self._lanes.values():
            lane.close()

    def _enqueue(self, model: Served, request: TextRequest, progress: Progress) -> _Job:
        if self._closing:
            raise Overloaded("the server is stopping")
        lane = self._lanes.get(model.name)
        if lane is None:
            lane = self._lanes[model.name] = _Lane(model.name, self._active_limit, self._queue_limit)
        held = contextlib.ExitStack()
        loop, number = asyncio.get_running_loop(), next(self._numbers)
        job = _Job(model, request, number, loop, StopFilter(request.stop), held, progress)
        lane.put(job)
        return job


class _Lane:
    """One model's thread and queue."""

    def __init__(self, name: str, active: int, queue: int) -> None:
        self._name = name
        self._active_limit = active
        self._queue_limit = queue
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._job_s = 0.0
        self.waiting: list[_Job] = []
        self.active: list[_Job] = []

    def put(self, job: _Job) -> None:
        """Let ``job`` wait for its turn.

        Raises:
            Busy, Overloaded.
        """
        with self._condition:
            if self._closing:
                raise Overloaded("the server is stopping")
            inside = self._inside()
            if inside >= self._active_limit + self._queue_limit:
                raise Busy(
                    f"{inside - self._active_limit} requests wait already",
                    retry_after_s=min(max(1, math.ceil(self.expected_wait_s())), _LONGEST_WAIT_S),
                )
            job.held.enter_context(job.model.hold())
            self.waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"generate-{self._name}", daemon=True)
                self._thread.start()

    def expected_wait_s(self) -> float:
        """How long one more would wait for its turn, if those before it take as long as the last ones did."""
        with self._condition:
            return self._job_s * max(0, self._inside() - self._active_limit + 1) / self._active_limit

    def waits(self, request: TextRequest) -> bool:
        """Whether this very request still waits for its turn."""
        with self._condition:
            return any(job.request is request for job in self.waiting)

    def _inside(self) -> int:
        # Those whose callers have left make room, and those that have ended but not left the round.
        return sum(not (each.cancelled or each.ended) for each in (*self.active, *self.waiting))

    def close(self) -> None:
        """End the thread; what still runs ends with an error."""
        with self._condition:
            self._closing = True
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while self._next_round():
            self.active = [job for job in self.active if self._advance(job)]

    def _next_round(self) -> bool:
        """Let those in who may begin; False when there is nothing to do, and the thread ends."""
        with self._condition:
            if self._closing:
                for job in (*self.active, *self.waiting):
                    self._end(job, Overloaded("the server is stopping"))
                self.active, self.waiting = [], []
            for job in [job for job in self.waiting if job.cancelled]:
                self.waiting.remove(job)
                self._end(job, None)
            self.waiting.sort(key=lambda job: job.order)
            while self.waiting and len(self.active) < self._places(self.waiting[0].model):
                job = self.waiting.pop(0)
                job.began = job.progress.began = time.monotonic()
                self.active.append(job)
            if not self.active:
                self._thread = None
            return bool(self.active)

    def _places(self, model: Served) -> int:
        """How many may take turns: what the server allows, and no more than the backend can have at once."""
        return min(self._active_limit, getattr(model.backend, "generations", self._active_limit))

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
        said = (Said(text, cast("WeighingDecoding", decoding).logprob),) if job.request.logprobs else ()
        clear = job.stop.feed(text)
        if job.stop.met:
            return self._end(job, _piece(job, clear, "stop"))
        if job.tokens >= job.request.max_tokens:
            return self._end(job, _piece(job, clear + job.stop.rest(), "length", said))
        # A token without text (half a character) still counts as progress for the stream's statistics.
        self._put(job, _piece(job, clear, None, said))
        return True

    def _end(self, job: _Job, last: Piece | BaseException | None) -> bool:
        if job.decoding is not None:
            job.decoding.close()
            job.decoding = None
            took = time.monotonic() - job.began
            self._job_s = took if not self._job_s else (1 - _NEWEST) * self._job_s + _NEWEST * took
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


async def _woken(job: _Job, deadline: float | None) -> None:
    """Wait for pieces.

    Raises:
        DeadlineExceeded: there are none at ``deadline``, a time of the job's loop.
    """
    try:
        async with asyncio.timeout_at(deadline):
            await job.wake.wait()
    except TimeoutError as error:
        where = "its turn" if job.decoding is None else f"its end: {job.tokens} tokens were made"
        raise DeadlineExceeded(f"{job.request.timeout_s:g} s were over before {where}") from error
    job.wake.clear()
    job.signalled = False


def _take(ready: collections.deque[Piece | BaseException]) -> tuple[list[Piece], BaseException | None]:
    """All pieces that are ready, and the error behind them if there is one."""
    batch: list[Piece] = []
    while ready:
        item = ready.popleft()
        if isinstance(item, BaseException):
            return batch, item
        batch.append(item)
    return batch, None


def _piece(job: _Job, text: str, finish: str | None, said: tuple[Said, ...] = ()) -> Piece:
    return Piece(text, job.tokens, 0 if job.decoding is None else job.decoding.prompt_tokens, finish, said)
