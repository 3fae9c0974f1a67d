"""Tensor requests on threads: a lane a model, so that a slow one keeps nobody else waiting.

Invariants:

- A lane has its own places and its own bounded queue. What does not fit is refused at once, not collected.
- A request whose caller left or whose time is over before it runs never runs. One that runs already cannot be stopped:
  its caller is told at once, and its place is free when the runtime has done.
- A request holds its model from the queue on until the thread is done with it.
- What is wrong with one request of a batch is answered to that one alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from hedgerow.server.batching import NONE, NORMAL, Batching, Ticket, decide, join, key_of, split
from hedgerow.server.errors import Busy, DeadlineExceeded, Overloaded

if TYPE_CHECKING:
    from hedgerow.server.backends import Arrays, TensorBackend
    from hedgerow.server.models import Served

# More lanes than this at work at once would share threads; no device has the memory for so many models.
_THREADS = 256
# How much the newest run counts for what one is expected to take.
_NEWEST = 0.2
_LONGEST_WAIT_S = 60


@dataclass(eq=False)
class _Call:
    ticket: Ticket
    model: Served
    inputs: Arrays
    outputs: Sequence[str]
    future: asyncio.Future[Arrays]
    held: contextlib.ExitStack
    # For statistics: the loop's clock has milliseconds.
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    started_ns: int = 0


class Workers:
    """``threads`` at once a model, ``queue`` more waiting. Used from one event loop.

    ``on_batch`` is told of each run: the model and its rows.
    """

    def __init__(
        self, *, threads: int, queue: int, on_batch: Callable[[Served, int], None] = lambda _model, _rows: None
    ) -> None:
        self._pool = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="infer")
        self._threads = threads
        self._queue = queue
        self._on_batch = on_batch
        self._lanes: dict[str, _Lane] = {}
        self._numbers = itertools.count()

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
    ) -> Arrays:
        """The outputs, computed on a thread. ``priority`` 1 is the most urgent, 0 the usual one.

        Raises:
            Busy: too many requests for this model wait already.
            DeadlineExceeded: ``timeout_s`` is over.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        backend = cast("TensorBackend", model.backend)
        key, rows = (None, 1) if batching.max_batch <= 1 else key_of(backend, id(model), inputs, outputs)
        deadline = None if timeout_s is None else now + timeout_s
        ticket = Ticket(next(self._numbers), now, priority or NORMAL, deadline, rows, key, batching)
        lane = self._lanes.get(model.name)
        if lane is None:
            lane = self._lanes[model.name] = _Lane(self._pool, loop, self._threads, self._queue, self._on_batch)
        call = lane.put(ticket, model, inputs, outputs)
        try:
            async with asyncio.timeout_at(deadline) as clock:
                return await call.future
        except TimeoutError as error:
            if not clock.expired():
                raise
            raise DeadlineExceeded(f"not done within {timeout_s:g} s") from error
        finally:
            lane.leave(call)

    def close(self) -> None:
        """Wait for what runs; what waits is dropped. From any thread."""
        for lane in self._lanes.values():
            lane.drop()
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Lane:
    """One model's places and queue."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        loop: asyncio.AbstractEventLoop,
        places: int,
        queue: int,
        on_batch: Callable[[Served, int], None],
    ) -> None:
        self._pool = pool
        self._loop = loop
        self._places = places
        self._queue = queue
        self._on_batch = on_batch
        self._again: asyncio.TimerHandle | None = None
        self._run_s = 0.0
        self.waiting: dict[Ticket, _Call] = {}
        self.running = 0

    def put(self, ticket: Ticket, model: Served, inputs: Arrays, outputs: Sequence[str]) -> _Call:
        room = (self._places - self.running) * max(1, ticket.batching.max_batch) + self._queue
        if len(self.waiting) >= room:
            wait_s = math.ceil(self._run_s * len(self.waiting) / self._places)
            raise Busy(f"{len(self.waiting)} requests wait already", retry_after_s=min(max(1, wait_s), _LONGEST_WAIT_S))
        held = contextlib.ExitStack()
        held.enter_context(model.hold())
        call = self.waiting[ticket] = _Call(ticket, model, inputs, outputs, self._loop.create_future(), held)
        self._start()
        return call

    def leave(self, call: _Call) -> None:
        """The caller needs it no more: if it has not begun, it never will."""
        if self.waiting.pop(call.ticket, None) is not None:
            call.held.close()

    def drop(self) -> None:
        """End what waits; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._drop)

    def _drop(self) -> None:
        for call in self.waiting.values():
            call.future.set_exception(Overloaded("the server is stopping"))

    def _start(self) -> None:
        """Run what may run now."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        while self.waiting and self.running < self._places:
            decision = decide(list(self.waiting), self._loop.time())
            if not decision.run:
                if decision.again_at is not None:
                    self._again = self._loop.call_at(decision.again_at, self._start)
                return
            calls = [self.waiting.pop(ticket) for ticket in decision.run]
            self.running += 1
            self._on_batch(calls[0].model, sum(call.ticket.rows for call in calls))
            started = self._loop.time()
            calls[0].started_ns = time.perf_counter_ns()
            done = self._loop.run_in_executor(self._pool, _run, calls)
            done.add_done_callback(functools.partial(self._ran, calls, started))

    def _ran(
        self, calls: Sequence[_Call], started: float, future: asyncio.Future[Sequence[Arrays | Exception]]
    ) -> None:
        if future.cancelled():  # the pool was shut down before it began
            self._done([Overloaded("the server is stopping")] * len(calls), calls, started)
        else:
            _count(calls)
            self._done(future.result(), calls, started)

    def _done(self, results: Sequence[Arrays | Exception], calls: Sequence[_Call], started: float) -> None:
        self.running -= 1
        took = self._loop.time() - started
        self._run_s = took if not self._run_s else (1 - _NEWEST) * self._run_s + _NEWEST * took
        for call, result in zip(calls, results, strict=True):
            call.held.close()
            if call.future.done():  # the caller has left
                continue
            if isinstance(result, Exception):
                call.future.set_exception(result)
            else:
                call.future.set_result(result)
        self._start()


def _count(calls: Sequence[_Call]) -> None:
    """A run has ended just now."""
    first = calls[0]
    waits_ns = [first.started_ns - call.arrived_ns for call in calls]
    took_ns = time.perf_counter_ns() - first.started_ns
    first.model.statistics.ran(sum(call.ticket.rows for call in calls), waits_ns, took_ns)


def _run(calls: Sequence[_Call]) -> Sequence[Arrays | Exception]:
    """Each call's outputs or what is wrong with it; on a thread."""
    backend = cast("TensorBackend", calls[0].model.backend)
    if len(calls) > 1:
        try:
            outputs = backend.infer(join([call.inputs for call in calls]), calls[0].outputs)
        except Exception:  # noqa: BLE001 - whose fault it is shows when each runs alone
            parts = None
        else:
            parts = split(outputs, [call.ticket.rows for call in calls])
        if parts is not None:
            return parts
    return [_alone(backend, call) for call in calls]


def _alone(backend: TensorBackend, call: _Call) -> Arrays | Exception:
    try:
        return backend.infer(call.inputs, call.outputs)
    except Exception as error:  # noqa: BLE001 - handed to its caller
        return error
