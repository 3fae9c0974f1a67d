"""uvicorn's HTTP/1.1 protocol, with large bodies read to where the application wants them, past the parser.

The parser copies a body into pieces, uvicorn copies these together and apart again. An application that finds ``FILL``
in a request's scope may pass memory of the body's length instead: what has not come yet is then read from the socket
to there, and the parser goes on behind the body.

Invariants:

- Heads, and bodies that nobody fills, are read into memory that all connections share: it is empty again before the
  next of them is read (``Reading``).
- Where a large body follows a head, nothing more is read until the application has said where it goes, or that it
  reads it as usual.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from typing import Any, ClassVar, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from hedgerow.server.replying import ReplyingProtocol

FILL: Final = "hedgerow.fill"
"""Key in the ASGI scope of ``async fill(memory) -> bool``: False where the caller hung up.

Raises TimeoutError when nothing comes for ``IDLE_S`` seconds, or all of it more slowly than ``allowed_s`` says. Absent
where the body's length is not known."""
IDLE_S = 20.0
# Below this the sender is no slow line but somebody who holds a connection. Source of the two bounds, and of the time
# that each byte earns: Apache, mod_reqtimeout (``body=20,MinRate=500``).
_BYTES_PER_S = 16 * 1024
# What is read at a time where nobody said where to. Of a body that much is copied once more, so it is no larger than
# heads and small requests need.
_READ = 16 * 1024
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

    @property
    def rest(self) -> memoryview:
        """The memory that is not filled yet."""
        return self.memory[self.place :]


class Reading(asyncio.BufferedProtocol):
    """``protocol`` as one that says where a connection's bytes are read to."""

    _shared: ClassVar[memoryview] = memoryview(bytearray(_READ))

    def __init__(self, protocol: FillingProtocol) -> None:
        self._protocol = protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._protocol.connection_made(cast("asyncio.Transport", transport))  # uvloop's is not one by name

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    def eof_received(self) -> None:
        self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._protocol.wanted or self._shared

    def buffer_updated(self, nbytes: int) -> None:
        if self._protocol.wanted is None:
            self._protocol.data_received(bytes(self._shared[:nbytes]))
        else:
            self._protocol.filled(nbytes)


class FillingProtocol(ReplyingProtocol):
    """Offers ``FILL`` for each request whose body has a length."""

    _filling: _Filling | None = None
    _expected = 0

    @property
    def filling(self) -> bool:
        """Whether what comes now is a body's, and goes past the parser."""
        return self._filling is not None

    @property
    def wanted(self) -> memoryview | None:
        """Where the next bytes belong, if they are a body's and go past the parser."""
        return None if self._filling is None else self._filling.rest

    def filled(self, size: int) -> None:
        """So many bytes have been read to where they belong."""
        if self._filling is not None:
            self._filling.place += size
            if self._filling.full:
                self._end_of_body(self._filling)

    def data_received(self, data: bytes) -> None:
        if self._filling is not None:
            taken = self._filling.take(data)
            if self._filling.full:
                self._end_of_body(self._filling)
            if taken == len(data):
                return
            data = data[taken:]
        self._expected = 0
        super().data_received(data)
        if self._expected > _READ and self.cycle.more_body and self._expected - len(self.cycle.body) > _READ:
            self.flow.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._filling is not None and not self._filling.ended.done():
            self._filling.ended.set_result(False)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        length = b""
        for name, value in self.headers:
            if name == b"transfer-encoding":
                return
            if name == b"content-length":
                length = value
        self._expected = int(length or b"0")
        scope: dict[str, Any] = self.scope  # type: ignore[assignment] # extensions are not in its type
        scope[FILL] = functools.partial(self._fill, weakref.ref(self.cycle))  # weakly as ``REPLY``

    async def _fill(self, reference: weakref.ref[RequestResponseCycle], memory: memoryview) -> bool:
        cycle = reference()
        if cycle is None:  # the request has ended
            return False
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
