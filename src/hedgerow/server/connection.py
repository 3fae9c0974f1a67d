"""uvicorn's HTTP/1.1 protocol with bounds on a request's head: uvicorn has none for its fast parser."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import msgspec

from hedgerow.server.intake import FillingProtocol

# Ten times what clients send; nginx takes 32 KiB by default (large_client_header_buffers).
HEAD_BYTES = 64 * 1024
HEAD_S = 20.0


class BoundedProtocol(FillingProtocol):
    """Refuses a head over ``HEAD_BYTES`` with 431, and one that takes longer than ``HEAD_S`` with 408."""

    _unfinished = 0
    _refused = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unfinished += len(data)
        super().data_received(data)
        if self._deadline is not None and self._unfinished > HEAD_BYTES and not self._refused:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._unfinished = 0
        if not self._refused:
            super().on_message_complete()

    def _expect_head(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(HEAD_S, self._refuse, HTTPStatus.REQUEST_TIMEOUT)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: HTTPStatus) -> None:
        self._refused = True
        self._stop_waiting()
        text: dict[str, Any] = {"error": f"{status.phrase}: the head may have {HEAD_BYTES} bytes and take {HEAD_S:g} s"}
        body = msgspec.json.encode(text)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()
