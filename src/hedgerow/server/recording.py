"""Every finished request is counted once, whichever protocol it came by: in the metrics and in the report's window."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hedgerow.server.errors import Draining, ServingError, Starting
from hedgerow.server.statistics import Sample, Window

if TYPE_CHECKING:
    from hedgerow.server.metrics import Metrics
    from hedgerow.server.scheduler import Piece

# From here on the fault is the server's (RFC 9110, section 15.6).
_SERVER_FAULT = 500
# As nginx names a client that closed its request.
_LEFT = 499


class Record:
    """What is known of one request while it runs; times are monotonic seconds. ``version`` is "" until it is known."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.version = ""
        self.first: float | None = None
        self.last = started
        self.tokens = 0
        self.prompt_tokens = 0

    def note(self, piece: Piece) -> None:
        """Take an answer's newest piece into account."""
        self.last = time.monotonic()
        if self.first is None:
            self.first = self.last
        self.tokens, self.prompt_tokens = piece.tokens, piece.prompt_tokens


class Recorder:
    """Counts requests of one server."""

    def __init__(self, metrics: Metrics, window: Window) -> None:
        self._metrics = metrics
        self._window = window
        self.inflight = 0

    @contextlib.contextmanager
    def request(self, name: str, protocol: str) -> Iterator[Record]:
        """Count a request on model ``name`` from here on. A caller who goes away has not found an error."""
        record = Record(time.monotonic())
        code, judged = 200, True
        self._metrics.inflight.inc()
        self.inflight += 1
        try:
            yield record
        except ServingError as error:
            code, judged = error.status, not isinstance(error, (Draining, Starting))
            raise
        except (GeneratorExit, asyncio.CancelledError):
            code = _LEFT
            raise
        except BaseException:
            code = 500
            raise
        finally:
            self._metrics.inflight.dec()
            self.inflight -= 1
            self._finish(record, name, protocol, code, judged=judged)

    def _finish(self, record: Record, name: str, protocol: str, code: int, *, judged: bool) -> None:
        now = time.monotonic()
        self._metrics.requests.labels(name, record.version, protocol, code).inc()
        self._metrics.duration.labels(name, protocol).observe(now - record.started)
        ttft_s = None if record.first is None else record.first - record.started
        if ttft_s is not None:
            self._metrics.first_token.labels(name).observe(ttft_s)
            self._metrics.tokens.labels(name, "prompt").inc(record.prompt_tokens)
            self._metrics.tokens.labels(name, "generated").inc(record.tokens)
        # The window is what a release is judged by. Whoever is sent away while a new runtime starts, or while the host
        # is drained for it, says nothing of it; of the rest only what the server is to blame for counts against it.
        if not judged:
            return
        self._window.add(
            Sample(
                at=now,
                duration_s=now - record.started,
                failed=code >= _SERVER_FAULT,
                ttft_s=ttft_s,
                tokens=record.tokens,
                generation_s=0.0 if record.first is None else record.last - record.first,
            )
        )
