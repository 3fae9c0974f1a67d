"""Tensor requests on threads: a lane a model, so that a slow one keeps nobody else waiting.

Invariants:

- A lane has its own places and its own bounded queue. What does not fit is refused at once, not collected.
- A request whose caller left or whose time is over before it runs never runs. Of one that runs already the caller is
  told at once; it is stopped where its backend can be (``begin_run``), elsewhere its place is free when it has ended.
- A request holds its model from the queue on until the thread is done with it.
- What is wrong with one request of a batch is answered to that one alone.
- A model whose runs have all been shorter than the way to a thread and back runs on the event loop (``pace``), unless
  others wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from hedgerow.server.batching import NONE, NORMAL, Batching, Ticket, decide, key_of
from hedgerow.server.calls import Call, Run, begin, rows_of
from hedgerow.server.crew import Crew
from hedgerow.server.errors import Busy, DeadlineExceeded, Overloaded
from hedgerow.server.pace import size_of

if TYPE_CHECKING:
    from hedgerow.server.backends import Arrays, TensorBackend
    from hedgerow.server.models import Served
    from hedgerow.server.progress import Progress

# More lanes than this at work at once would share threads; no device has the memory for so many models.
_THREADS = 256
# How much the newest run counts for what one is expected to take.
_NEWEST = 0.2
_LONGEST_WAIT_S = 60
# After so many calls on the event loop everybody else has a turn, even if those who ask never wait for anything.
_TURN = 16


class Workers:
    """``threads`` at once a model, ``queue`` more waiting. Used from one event loop.

    ``on_batch`` is told of each run: the model and its rows.
    """

    def __init__(
        self, *, threads: int, queue: int, on_batch: Callable[[Served, int], None] = lambda _model, _rows: None
    ) -> None:
        self._crew = Crew(_THREADS, "infer")
        self.places = threads
        self.queue = queue
        self.on_batch = on_batch
        self._lanes: dict[str, _Lane] = {}
        self._numbers = itertools.count()
        self._here = itertools.count(1)

    @property
    def queue_depth(self) -> int:
        """Requests that wait for a thread."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    @property
    def running(self) -> int:
        """Threads that compute."""
        return sum(lane.running for lane in self._lanes.values())

    async def infer(
        self,
        model: Served,
        inputs: Arrays,
        outputs: Sequence[str],
        *,
        priority: int = 0,
        timeout_s: float | None = None,
        batching: Batching = NONE,
        progress: Progress | None = None,
    ) -> Arrays:
        """The outputs, computed on a thread. ``priority`` 1 is the most urgent, 0 the usual one.

        ``progress`` is told, at the end, when it began.

        Raises:
            Busy: too many requests for this model wait already.
            DeadlineExceeded: ``timeout_s`` is over.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        backend = cast("TensorBackend", model.backend)
        lane = self._lanes.get(model.name)
        if lane is None:
            lane = self._lanes[model.name] = _Lane(self, loop)
        if batching.max_batch <= 1 and lane.free and (size := _size_if_quick(model, inputs)) is not None:
            results = self._run_here(model, inputs, outputs, size=size, timeout_s=timeout_s, progress=progress)
            if next(self._here) % _TURN == 0:
                await asyncio.sleep(0)
            return results
        key, rows = (None, 1) if batching.max_batch <= 1 else key_of(backend, id(model), inputs, outputs)
        deadline = None if timeout_s is None else now + timeout_s
        ticket = Ticket(next(self._numbers), now, priority or NORMAL, deadline, rows, key, batching)
        call = lane.put(ticket, model, inputs, outputs)
        # asyncio.timeout_at() cancels the task and catches that again, at five times the price.
        clock = None if timeout_s is None else loop.call_at(now + timeout_s, _late, call, timeout_s)
        try:
            return await call.future
        finally:
            if clock is not None:
                clock.cancel()
            lane.leave(call)
            if progress is not None:
                progress.began, progress.rows = call.began, call.rows

    def _run_here(
        self,
        model: Served,
        inputs: Arrays,
        outputs: Sequence[str],
        *,
        size: int,
        timeout_s: float | None,
        progress: Progress | None,
    ) -> Arrays:
        """One call on the event loop, told of as one on a thread is."""
        if progress is not None:
            progress.began, progress.rows = time.monotonic(), 1
        self.on_batch(model, 1)
        cpu_ns, started_ns = time.thread_time_ns(), time.perf_counter_ns()
        try:
            results = cast("TensorBackend", model.backend).infer(inputs, outputs)
        finally:
            took_ns = time.perf_counter_ns() - started_ns
            model.pace.ran(size, time.thread_time_ns() - cpu_ns)
            model.statistics.ran(1, [0], took_ns)
        if timeout_s is not None and took_ns > timeout_s * 1e9:
            raise DeadlineExceeded(f"not done within {timeout_s:g} s")
        return results

    def give(self, job: _Job) -> None:
        """Have a thread do it; its lane counts it among those that run."""
        self._crew.give(job, self.running)

    def close(self) -> None:
        """Wait for what runs; what waits is dropped. From any thread."""
        for lane in self._lanes.values():
            lane.drop()
        self._crew.close()


class _Job:
    """Calls of a lane for a thread."""

    __slots__ = ("_calls", "_lane")

    def __init__(self, lane: _Lane, calls: list[Call]) -> None:
        self._lane = lane
        self._calls = calls

    def run(self) -> None:
        try:
            self._lane.work(self._calls)
        except BaseException as error:  # noqa: BLE001 - a fault of ours: the loop says so, and the thread stays
            self._lane.tell(_raise, error)

    def drop(self) -> None:
        self._lane.dropped_before(self._calls)


def _late(call: Call, timeout_s: float) -> None:
    if not call.future.done():
        call.left = True
        call.future.set_exception(DeadlineExceeded(f"not done within {timeout_s:g} s"))


def _raise(error: BaseException) -> None:
    raise error


class _Lane:
    """One model's places and queue.

    The event loop puts calls here and ends them. A thread that has done one takes the next itself: small models would
    else spend more on the way through the loop than on computing. Both hold ``_lock`` while they look at what waits.
    """

    def __init__(self, workers: Workers, loop: asyncio.AbstractEventLoop) -> None:
        self._workers = workers
        self._loop = loop
        self._places = workers.places
        self._queue = workers.queue
        self._on_batch = workers.on_batch
        self._again: asyncio.TimerHandle | None = None
        self._run_s = 0.0
        self._lock = threading.Lock()
        self.dropped = False
        self.waiting: dict[Ticket, Call] = {}
        self.running = 0

    @property
    def free(self) -> bool:
        """Whether nobody waits whom a call would overtake."""
        return not self.waiting and not self.dropped

    def put(self, ticket: Ticket, model: Served, inputs: Arrays, outputs: Sequence[str]) -> Call:
        with self._lock:
            room = (self._places - self.running) * max(1, ticket.batching.max_batch) + self._queue
            if len(self.waiting) >= room:
                wait_s = math.ceil(self._run_s * len(self.waiting) / self._places)
                raise Busy(
                    f"{len(self.waiting)} requests wait already", retry_after_s=min(max(1, wait_s), _LONGEST_WAIT_S)
                )
            model.take()
            call = self.waiting[ticket] = Call(ticket, model, inputs, outputs, self._loop.create_future())
        self._start()
        return call

    def leave(self, call: Call) -> None:
        """The caller needs it no more: if it has not begun, it never will."""
        call.left = call.left or call.future.cancelled() or not call.future.done()
        with self._lock:
            waited = self.waiting.pop(call.ticket, None) is not None
        if waited:
            call.model.let_go()
        elif call.run is not None and call.left:
            call.run.stop_unless_wanted()
        if not call.left:
            # An error knows the call by its traceback. If the call knew the error, both would stay, and the body.
            del call.future

    def drop(self) -> None:
        """End what waits; from any thread."""
        with self._lock:
            self.dropped = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._drop)

    def _drop(self) -> None:
        for call in self.waiting.values():
            call.future.set_exception(Overloaded("the server is stopping"))

    def _start(self) -> None:
        """Give to threads what may run now. On the loop."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        while self.running < self._places:
            with self._lock:
                calls, again_at = self._take()
                self.running += bool(calls)
            if not calls:
                if again_at is not None:
                    self._again = self._loop.call_at(again_at, self._start)
                return
            self._workers.give(_Job(self, calls))

    def _take(self) -> tuple[list[Call], float | None]:
        """What runs next, off the queue; else when to look again. Whoever calls holds the lock."""
        if not self.waiting or self.dropped:
            return [], None
        decision = decide(list(self.waiting), self._loop.time())
        return [self.waiting.pop(ticket) for ticket in decision.run], decision.again_at

    def work(self, calls: list[Call]) -> None:
        """Run them, and then what waits by then; on a thread."""
        while calls:
            self._on_batch(calls[0].model, rows_of(calls))
            begin(calls)
            cpu_ns, started_ns = time.thread_time_ns(), time.perf_counter_ns()
            results = Run(calls).results()
            took_ns, cpu_ns = time.perf_counter_ns() - started_ns, time.thread_time_ns() - cpu_ns
            with self._lock:
                following, _ = self._take()
                self.running -= not following
            self.tell(self._ran, calls, results, started_ns, took_ns, cpu_ns)
            calls = following

    def dropped_before(self, calls: list[Call]) -> None:
        """The threads have ended before they began."""
        self.tell(self._done, calls, [Overloaded("the server is stopping")] * len(calls))

    def tell(self, what: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(what, *arguments)

    def _ran(
        self,
        calls: Sequence[Call],
        results: Sequence[Arrays | Exception],
        started_ns: int,
        took_ns: int,
        cpu_ns: int,
    ) -> None:
        """A run has ended. On the loop, as all that follows."""
        took_s = took_ns / 1e9
        self._run_s = took_s if not self._run_s else (1 - _NEWEST) * self._run_s + _NEWEST * took_s
        waits_ns = [started_ns - call.arrived_ns for call in calls]
        calls[0].model.statistics.ran(rows_of(calls), waits_ns, took_ns)
        if len(calls) == 1 and (size := size_of(calls[0].inputs)) is not None:
            calls[0].model.pace.ran(size, cpu_ns)
        self._done(calls, results)
        self._start()

    def _done(self, calls: Sequence[Call], results: Sequence[Arrays | Exception]) -> None:
        for call, result in zip(calls, results, strict=True):
            call.model.let_go()
            # Each knows the other: a body would stay until Python's collector comes, and the next one take new pages.
            call.run = None
            if call.future.done():  # the caller has left
                continue
            if isinstance(result, Exception):
                call.future.set_exception(result)
            else:
                call.future.set_result(result)


def _size_if_quick(model: Served, inputs: Arrays) -> int | None:
    """The inputs' bytes where the event loop may compute them itself, else None."""
    if not getattr(model.backend, "inline", False):
        return None
    size = size_of(inputs)
    return size if size is not None and model.pace.quick(size) else None
