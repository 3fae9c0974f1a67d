"""uvicorn's HTTP/1.1 protocol, with large bodies written where the application wants them, past the parser.

The parser copies a body into pieces, uvicorn copies these together and apart again. An application that finds ``FILL``
in a request's scope may pass memory of the body's length instead: what has not come yet is then copied there from the
socket's reads, once, and the parser goes on behind the body.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

FILL: Final = "hedgerow.fill"
"""Key in the ASGI scope of ``async fill(memory) -> bool``: False where the caller hung up.

Raises TimeoutError when nothing comes for ``IDLE_S`` seconds, or all of it more slowly than ``allowed_s`` says. Absent
where the body's length is not known."""
IDLE_S = 20.0
# Below this the sender is no slow line but somebody who holds a connection. Source of the two bounds, and of the time
# that each byte earns: Apache, mod_reqtimeout (``body=20,MinRate=500``).
_BYTES_PER_S = 16 * 1024
TOO_SLOW: Final = f"nothing of the body has come for {IDLE_S:g} s, or less than {_BYTES_PER_S} bytes a second in all"


def allowed_s(size: int) -> float:
    """Seconds in which so many bytes of a body must have come."""
    return IDLE_S + size / _BYTES_PER_S


class _Filling:
    """Memory that is being filled; ``ended`` is set to whether it was."""

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.place = 0
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.watching: asyncio.TimerHandle | None = None

    @property
    def full(self) -> bool:
        return self.place == len(self.memory)

    def unwatch(self) -> None:
        """No more looking for whether anything comes."""
        if self.watching is not None:
            self.watching.cancel()

    def take(self, data: bytes | bytearray) -> int:
        """Copy what there is room for; returns how many bytes that were."""
        taken = min(len(data), len(self.memory) - self.place)
        self.memory[self.place : self.place + taken] = memoryview(data)[:taken]
        self.place += taken
        return taken


class FillingProtocol(HttpToolsProtocol):
    """Offers ``FILL`` for each request whose body has a length."""

    _filling: _Filling | None = None

    @property
    def filling(self) -> bool:
        """Whether what comes now is a body's, and goes past the parser."""
        return self._filling is not None

    def data_received(self, data: bytes) -> None:
        if self._filling is not None:
            taken = self._filling.take(data)
            if self._filling.full:
                self._end_of_body(self._filling)
            if taken == len(data):
                return
            data = data[taken:]
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._filling is not None and not self._filling.ended.done():
            self._filling.ended.set_result(False)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        for name, _ in self.headers:
            if name == b"transfer-encoding":
                return
        scope: dict[str, Any] = self.scope  # type: ignore[assignment] # extensions are not in its type
        scope[FILL] = functools.partial(self._fill, self.cycle)

    async def _fill(self, cycle: RequestResponseCycle, memory: memoryview) -> bool:
        come, cycle.body = cycle.body, bytearray()
        if not cycle.more_body and len(come) == len(memory):  # all of it came with the head, as small ones do
            memory[:] = come
            return True
        filling = _Filling(memory)
        filling.take(come)
        if not cycle.more_body:
            return filling.full
        if cycle.disconnected:
            return False
        self._filling = filling
        if cycle.waiting_for_100_continue:
            cycle.waiting_for_100_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.flow.resume_reading()
        self._watch(filling, self.loop.time())
        try:
            return await filling.ended
        finally:
            filling.unwatch()
            # Whoever leaves in between leaves a connection on which nobody knows where the next request begins.
            if not filling.full:
                cycle.keep_alive = False

    def _watch(self, filling: _Filling, started: float) -> None:
        """Look again whether anything has come, and all of it quickly enough."""
        left = started + allowed_s(filling.place) - self.loop.time()
        filling.watching = self.loop.call_later(
            max(0.0, min(IDLE_S, left)), self._look, filling, started, filling.place
        )

    def _look(self, filling: _Filling, started: float, before: int) -> None:
        if filling.ended.done():
            return
        if filling.place == before or self.loop.time() - started > allowed_s(filling.place):
            filling.ended.set_exception(TimeoutError())
        else:
            self._watch(filling, started)

    def _end_of_body(self, filling: _Filling) -> None:
        self._filling = None
        # As uvicorn makes it; the old one still waits for the bytes that it has not seen.
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.on_message_complete()
        if not filling.ended.done():
            filling.ended.set_result(True)
