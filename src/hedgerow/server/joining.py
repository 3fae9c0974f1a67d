"""A connection on which what is written in one turn of the event loop is sent together.

uvicorn writes an answer's head and its body one after the other, and uvloop sends each at once: two calls of the kernel
and two packets, and a caller that is woken twice, for what fits into one.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

# More is sent at once: joining would copy it, and flow control must know of it.
_MOST: Final = 64 * 1024


class JoiningTransport(asyncio.Transport):
    """``transport``, with its small writes held until the loop's turn ends or it is closed."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held: list[bytes | bytearray | memoryview] = []
        self._size = 0
        self._flushing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._size += len(data)
        self._held.append(data)
        if self._size > _MOST:
            self.flush()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._turn_ends)

    def flush(self) -> None:
        """Send what is held."""
        if not self._held:
            return
        held, self._held, size, self._size = self._held, [], self._size, 0
        if self._transport.is_closing():  # the caller has gone since
            return
        if size > _MOST:
            for data in held:
                self._transport.write(data)
        else:
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))

    def _turn_ends(self) -> None:
        self._flushing = False
        self.flush()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._held.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()
