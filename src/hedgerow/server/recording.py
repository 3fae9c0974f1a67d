"""Every finished request is counted once, whichever protocol it came by: in the metrics and in the report's window.

Tensor requests that went well are counted several at a time, ``_WITHIN_S`` late at most and before anybody reads: the
code that does it is in the processor's caches from the second one on, and a small model's request takes a seventh less.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from hedgerow.server.errors import Cause, ServingError, cause_of
from hedgerow.server.progress import Progress
from hedgerow.server.statistics import Sample, Window
from hedgerow.server.telemetry import tracecontext
from hedgerow.server.telemetry.caller import Caller, current
from hedgerow.server.telemetry.finished import Finished, prompt_size

if TYPE_CHECKING:
    from hedgerow.server.backends import TextRequest
    from hedgerow.server.metrics import Metrics
    from hedgerow.server.models import Served
    from hedgerow.server.modelstatistics import ModelStatistics
    from hedgerow.server.pieces import Piece

# From here on the fault is the server's (RFC 9110, section 15.6).
_SERVER_FAULT = 500
_FAILED = 400
# As nginx names a client that closed its request.
_LEFT = 499
# Stands for the version of what answered, where that was another machine (``fallback``).
_ELSEWHERE = "fallback"
# Whoever is sent away for the board's sake, while a new runtime starts or while the host is drained for it, or as a
# client that asks too much, says nothing of the release.
_NOT_THE_RELEASE = frozenset({Cause.PRESSURE, Cause.STARTING, Cause.DRAINING, Cause.RATE})
# So long, and so many: the event loop is held up for less than a millisecond by them.
_WITHIN_S = 0.05
_MOST = 32
log = logging.getLogger("hedgerow.server")


def _never() -> bool:
    return False


class Record:
    """What is known of one request while it runs; times are monotonic seconds. ``version`` is "" until it is known.

    ``waits`` tells whether it still waits for its turn. ``keeps_text``: whether its answer is kept until its end, for
    those who sample.
    """

    def __init__(self, started: float, *, keeps_text: bool = False) -> None:
        self.started = started
        self.caller = current()
        # Requests of a stream share their caller; the first of them came with it.
        self.arrived = started if self.caller.recorded else self.caller.arrived
        self.caller.recorded = True
        self.span_id = tracecontext.new_span_id()
        self.progress = Progress()
        self.asked: TextRequest | None = None
        self.finish: str | None = None
        self.texts: list[str] | None = [] if keeps_text else None
        self.version = ""
        self.statistics: ModelStatistics | None = None
        self.first: float | None = None
        self.last = started
        self.tokens = 0
        self.prompt_tokens = 0
        self.waits: Callable[[], bool] = _never
        self.elsewhere = False
        self.device_failed = False

    def served_by(self, model: Served) -> None:
        """The version that the request runs on is known now."""
        self.version = model.version
        self.statistics = model.statistics

    def answered_elsewhere(self, *, failed: bool) -> None:
        """Another machine answers; ``failed``: since this one could not."""
        self.elsewhere, self.device_failed = True, failed
        self.version, self.statistics = _ELSEWHERE, None
        self.first, self.tokens, self.prompt_tokens = None, 0, 0

    def hears(self, batch: Sequence[Piece]) -> None:
        """Pieces go to the caller, wherever they come from."""
        self.finish = batch[-1].finish
        if self.texts is not None:
            self.texts += [piece.text for piece in batch]

    def note(self, piece: Piece) -> None:
        """Take the newest piece of the device's own answer into account."""
        if self.elsewhere:
            return
        self.last = time.monotonic()
        if self.first is None:
            self.first = self.last
        self.tokens, self.prompt_tokens = piece.tokens, piece.prompt_tokens


class Ended(Struct, frozen=True):
    """What came of a request: its HTTP status, and when, in monotonic seconds (``at``) and in those since 1970."""

    record: Record
    name: str
    protocol: str
    code: int
    cause: Cause | None
    at: float
    at_s: float


class Counted:
    """One request while it runs; what its ``with`` block raises is what came of it."""

    __slots__ = ("_name", "_protocol", "_record", "_recorder")

    def __init__(self, recorder: Recorder, name: str, protocol: str) -> None:
        self._recorder = recorder
        self._name = name
        self._protocol = protocol

    def __enter__(self) -> Record:
        self._record = Record(time.monotonic(), keeps_text=self._recorder.keeps_text)
        self._recorder.inflight += 1
        return self._record

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        code, cause = 200, None
        if error is None:
            pass
        elif isinstance(error, ServingError):
            code, cause = error.status, error.cause
        elif isinstance(error, GeneratorExit | asyncio.CancelledError):
            if self._record.finish is None:  # else it has had the whole answer
                code, cause = _LEFT, Cause.LEFT
        else:
            code, cause = 500, Cause.FAULT
        self._recorder.inflight -= 1
        self._recorder.ended(self._record, self._name, self._protocol, code, cause)


class Recorder:
    """Counts requests of one server. ``sinks`` are told of each when it has ended, and must not block.

    ``keeps_text``: whether answers are kept until then.
    """

    def __init__(self, metrics: Metrics, window: Window) -> None:
        self._metrics = metrics
        self._window = window
        # Looking up a metric by its labels takes longer than counting.
        self._requests = functools.cache(metrics.requests.labels)
        self._duration = functools.cache(metrics.duration.labels)
        self._queued = functools.cache(metrics.queue_duration.labels)
        self.inflight = 0
        self._held: collections.deque[Ended] = collections.deque()
        metrics.before_reading = self.settle
        metrics.inflight.set_function(lambda: self.inflight)
        self.sinks: list[Callable[[Finished], None]] = []
        self.keeps_text = False

    def refused(self, caller: Caller, protocol: str, status: int) -> None:
        """A call ended before it came to a model's name."""
        self.settle()
        now = time.monotonic()
        cause = caller.cause or cause_of(status)
        self._metrics.errors.labels("", protocol, cause).inc()
        self._tell(
            Finished(
                caller,
                tracecontext.new_span_id(),
                "",
                "",
                protocol,
                status,
                cause,
                arrived=caller.arrived,
                started=caller.arrived,
                began=None,
                first=None,
                last=now,
                ended=now,
            )
        )

    def request(self, name: str, protocol: str) -> Counted:
        """Count a request on model ``name`` within a ``with`` block. A caller who goes away has not found an error."""
        return Counted(self, name, protocol)

    def ended(self, record: Record, name: str, protocol: str, code: int, cause: Cause | None) -> None:
        """A request has ended: count it, report it, and tell of it, now or with others."""
        held = self._held
        held.append(Ended(record, name, protocol, code, cause, time.monotonic(), time.time()))
        # A text (it has no rows) would be kept as long, and nobody should wait for the line of what went wrong.
        if code >= _FAILED or not record.progress.rows or len(held) >= _MOST:
            self.settle()
        elif len(held) == 1:
            try:
                asyncio.get_running_loop().call_later(_WITHIN_S, self.settle)
            except RuntimeError:  # nothing would come of waiting
                self.settle()

    def settle(self) -> None:
        """Count those that wait for others; whoever reads what is counted calls this first."""
        while self._held:
            try:
                ended = self._held.popleft()
            except IndexError:  # another thread has settled the last one
                return
            request = _described(ended)
            self._count(request)
            self._report(request, ended)
            self._tell(request)

    def _count(self, request: Finished) -> None:
        name, size = request.model, prompt_size(request.prompt_tokens)
        self._requests(name, request.version, request.protocol, request.code).inc()
        self._duration(name, request.protocol, size).observe(request.duration_s)
        if request.cause is not None:
            self._metrics.errors.labels(name, request.protocol, request.cause).inc()
        if request.queued_s is not None:
            self._queued(name).observe(request.queued_s)
        if request.first_token_s is not None:
            self._metrics.first_token.labels(name, size).observe(request.first_token_s)
            self._metrics.tokens.labels(name, "prompt").inc(request.prompt_tokens)
            self._metrics.tokens.labels(name, "generated").inc(request.tokens)
        if request.tokens_per_s is not None:
            self._metrics.token_rate.labels(name, size).observe(request.tokens_per_s)

    def _report(self, request: Finished, ended: Ended) -> None:
        now, code, record = request.ended, request.code, ended.record
        if record.elsewhere:
            # The window is what a release is judged by: what others answered says nothing for it, what it failed does.
            if record.device_failed:
                self._window.add(Sample(at=now, duration_s=now - record.started, failed=True))
            return
        if record.statistics is not None:
            took_ns = int((now - record.started) * 1e9)
            record.statistics.ended(took_ns, failed=code >= _FAILED, at_ms=int(ended.at_s * 1000))
        if request.cause is not None and request.cause in _NOT_THE_RELEASE:
            return
        # Only what the server is to blame for counts against it.
        self._window.add(
            Sample(
                at=now,
                duration_s=now - record.started,
                failed=code >= _SERVER_FAULT,
                ttft_s=request.first_token_s,
                tokens=record.tokens,
                generation_s=0.0 if record.first is None else record.last - record.first,
            )
        )

    def _tell(self, request: Finished) -> None:
        for sink in self.sinks:
            try:
                sink(request)
            except Exception as error:  # noqa: BLE001 - the answer is there; what tells of it must not take it back
                log.error("a finished request could not be told of: %s", type(error).__name__)  # noqa: TRY400 - same


def _described(ended: Ended) -> Finished:
    record = ended.record
    return Finished(
        record.caller,
        record.span_id,
        ended.name,
        record.version,
        ended.protocol,
        ended.code,
        ended.cause,
        arrived=record.arrived,
        started=record.started,
        began=record.progress.began,
        first=record.first,
        last=record.last,
        ended=ended.at,
        rows=record.progress.rows,
        prompt_tokens=record.prompt_tokens,
        tokens=record.tokens,
        finish=record.finish,
        request=record.asked if record.texts is not None else None,
        text=None if record.texts is None else "".join(record.texts),
    )
