"""Tensor requests that wait for a thread, and those of them that are computed together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from hedgerow.server.batching import join, split
from hedgerow.server.errors import DeadlineExceeded, ServingError

if TYPE_CHECKING:
    import asyncio

    from hedgerow.server.backends import Arrays, RunHandle, StoppableBackend, TensorBackend
    from hedgerow.server.batching import Ticket
    from hedgerow.server.models import Served


@dataclass(eq=False)
class Call:
    """One request. Its caller waits for ``future``; it has ``left`` where it does no more, whatever comes of it.

    There is no ``future`` any more once the caller has its answer.
    """

    ticket: Ticket
    model: Served
    inputs: Arrays
    outputs: Sequence[str]
    future: asyncio.Future[Arrays]
    # For statistics: the loop's clock has milliseconds.
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    # Of its run, once there is one: when it began, and the rows of its batch.
    began: float | None = None
    rows: int = 0
    run: Run | None = None
    left: bool = False


def begin(calls: Sequence[Call]) -> None:
    """Note that they are computed from now on."""
    now, rows = time.monotonic(), rows_of(calls)
    for call in calls:
        call.began, call.rows = now, rows


def rows_of(calls: Sequence[Call]) -> int:
    """Rows of all of them together."""
    return sum(call.ticket.rows for call in calls)


class Run:
    """Calls that are computed together: on a thread, and stopped from the event loop."""

    __slots__ = ("_backend", "_calls", "_handle", "_stopped")

    def __init__(self, calls: Sequence[Call]) -> None:
        self._backend = cast("TensorBackend", calls[0].model.backend)
        self._calls = calls
        self._stopped = False
        start = getattr(self._backend, "begin_run", None)
        self._handle: RunHandle | None = None if start is None else start()
        for call in calls:
            call.run = self
        # A caller that left before it could find this run has not stopped it.
        self.stop_unless_wanted()

    def stop_unless_wanted(self) -> None:
        """Have the runtime end where none of the callers waits any more."""
        if all(call.left for call in self._calls):
            self._stopped = True
            if self._handle is not None:
                self._handle.terminate = True

    def results(self) -> Sequence[Arrays | Exception]:
        """Each call's outputs or what is wrong with it."""
        if len(self._calls) > 1 and not self._stopped:
            try:
                outputs = self._infer(join([call.inputs for call in self._calls]), self._calls[0].outputs)
            except Exception:  # noqa: BLE001 - whose fault it is shows when each runs alone
                parts = None
            else:
                parts = split(outputs, [call.ticket.rows for call in self._calls])
            if parts is not None:
                return parts
        return [self._alone(call) for call in self._calls]

    def _alone(self, call: Call) -> Arrays | Exception:
        if self._stopped:
            return DeadlineExceeded("nobody waits for it any more")
        try:
            return self._infer(call.inputs, call.outputs)
        except ServingError as error:
            # Nobody asks where in a backend a caller's fault was found, and a traceback holds what it was found in.
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)
        except Exception as error:  # noqa: BLE001 - handed to its caller
            return error

    def _infer(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        if self._handle is None:
            return self._backend.infer(inputs, outputs)
        return cast("StoppableBackend", self._backend).infer(inputs, outputs, self._handle)
