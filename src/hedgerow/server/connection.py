"""uvicorn's HTTP/1.1 protocol with bounds on what is no body: uvicorn has none for its fast parser.

Invariants:

- A connection on which nothing is asked, or whose answer is sent before its request has ended, has a deadline.
- What comes between two pieces of a body (heads, trailers, chunks' extensions) is bounded wherever it stands.
- A port has at most ``CONNECTIONS``. Where one more comes, the one that has waited longest for a request makes room.
- Nothing else is spoken here: a connection that should be upgraded is answered as it is, and closed.
"""

from __future__ import annotations

import asyncio
import itertools
from http import HTTPStatus
from typing import Any

import msgspec

from hedgerow.server.intake import FillingProtocol
from hedgerow.server.joining import JoiningTransport

# Ten times what clients send; nginx takes 32 KiB by default (large_client_header_buffers).
HEAD_BYTES = 64 * 1024
HEAD_S = 20.0
# Three ports of them leave room in the 1,024 files that systemd lets a service open by default.
CONNECTIONS = 256
_BOUNDS = f"the head may have {HEAD_BYTES} bytes and take {HEAD_S:g} s"


class BoundedProtocol(FillingProtocol):
    """Refuses a head over ``HEAD_BYTES`` with 431, and one that takes longer than ``HEAD_S`` with 408.

    ``_unfinished``: bytes since a piece of a body, or the last request's end. ``_within`` a request, ``_heading`` in
    its head.
    """

    _unfinished = 0
    _within = False
    _heading = False
    _refused = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(JoiningTransport(transport, self.loop))
        self._expect_head()
        open_ = [each for each in self.connections if isinstance(each, BoundedProtocol) and not each.closing]
        if len(open_) > CONNECTIONS:
            waiting = {each: until for each in open_ if each is not self and (until := each.waits_until) is not None}
            min(waiting, key=lambda each: waiting[each], default=self).transport.abort()

    @property
    def closing(self) -> bool:
        """Whether it is about to end."""
        return self.transport.is_closing()

    @property
    def waits_until(self) -> float | None:
        """The loop's time at which it ends, if nothing is asked until then; None while there is something to do."""
        timer = self._deadline or self.timeout_keep_alive_task
        return None if timer is None else timer.when()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unfinished += len(data)
        super().data_received(data)
        if self.filling:
            self._unfinished = 0
        elif self._refused:
            return
        elif self._unfinished > HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._deadline is None and (self._heading or not (self._within or self._answering)):
            # The rest of a head; most come whole, and need no timer. Or empty lines, which are no request and end
            # uvicorn's own waiting for one.
            self._expect_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._within = self._heading = True
        self._stop_waiting()

    def on_headers_complete(self) -> None:
        self._heading = False
        self._stop_waiting()
        if len(self.url) + sum(map(len, itertools.chain.from_iterable(self.headers))) > HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        super().on_headers_complete()
        if self.parser.should_upgrade():
            # The parser reads no further on this connection.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._unfinished = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._unfinished = 0
        self._within = False
        self._stop_waiting()
        if not self._refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._within and not self._answering and self._deadline is None:
            # The rest of a body that nobody reads: time to send it and read the answer, not more.
            self._deadline = self.loop.call_later(HEAD_S, self.transport.close)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(HEAD_S, self._refuse, HTTPStatus.REQUEST_TIMEOUT)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def send_400_response(self, msg: str) -> None:
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _refuse(self, status: HTTPStatus, why: str = _BOUNDS) -> None:
        self._refused = True
        self._stop_waiting()
        if self._answering and self.cycle.response_started:
            self.transport.close()  # another answer may not stand within one
            return
        text: dict[str, Any] = {"error": f"{status.phrase}: {why}"}
        body = msgspec.json.encode(text)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()
