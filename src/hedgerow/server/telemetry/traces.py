"""Which finished requests leave as traces. Decided at their end, when it is known whether they were slow or failed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from hedgerow.server.telemetry import tracecontext
from hedgerow.server.telemetry.queues import Batches

if TYPE_CHECKING:
    from hedgerow.server.metrics import Metrics
    from hedgerow.server.telemetry import config
    from hedgerow.server.telemetry.finished import Finished

log = logging.getLogger("hedgerow.server.traces")
_BATCH: Final = 64
# The process does not stay for a collector that does not answer.
_CLOSE_S: Final = 2.0

Send = Callable[[Sequence["Finished"]], bool]
"""Brings a batch to the collector; False where it could not. May block."""


class Traces:
    """Sends traces through ``send``, on a thread. A collector that is gone costs traces, never time.

    ``important`` ones leave whatever the ratio; ``stop`` ends what ``send`` is trying again.
    """

    def __init__(
        self,
        settings: config.Traces,
        send: Send,
        metrics: Metrics,
        *,
        important: Callable[[Finished], bool],
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._ratio = settings.ratio
        self._send = send
        self._stop = stop
        self._important = important
        self._metrics = metrics
        self._reached = True
        self._queue: Batches[Finished] = Batches(
            "traces", self._take, room=settings.queue, most=_BATCH, interval_s=settings.interval_s
        )

    def __call__(self, request: Finished) -> None:
        important = self._important(request)
        if not important and not self._sampled(request):
            return
        if not self._queue.offer(request, important=important):
            self._metrics.traces.labels("queue_full").inc()

    def close(self) -> None:
        """Send what waits if that is quick, and end."""
        if not self._queue.close(_CLOSE_S):
            log.warning("the collector of traces does not answer; %d traces are lost", self._queue.waiting)
        self._stop()

    def _sampled(self, request: Finished) -> bool:
        """As the caller's trace is; a trace that begins here by the ratio."""
        parent = request.caller.parent
        return tracecontext.chosen(request.caller.trace_id, self._ratio) if parent is None else parent.sampled

    def _take(self, batch: Sequence[Finished]) -> None:
        try:
            sent = self._send(batch)
        except Exception as error:  # noqa: BLE001 - the thread must outlive any one batch
            log.error("traces cannot be sent: %s", type(error).__name__)  # noqa: TRY400 - it may quote the batch
            sent = False
        self._metrics.traces.labels("sent" if sent else "not_sent").inc(len(batch))
        # Once, not every few seconds of an outage.
        if sent != self._reached:
            self._reached = sent
            log.log(*((logging.INFO, "traces are sent again") if sent else (logging.WARNING, "traces cannot be sent")))
