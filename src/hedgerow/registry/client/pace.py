"""A line that is alive and yet brings nothing: the least rate at which a registry must send.

A timeout on each read does not see a sender that drips a byte whenever the timeout is near (The Update Framework
specification 1.0, section 1.5.2: slow retrieval attack). So the rate is measured where every byte passes, in the
socket: headers, chunk sizes and content alike. Only time spent waiting for the line counts. A reader that pauses, to
write to a card or to keep to a bandwidth limit, is never taken for a slow sender.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class TooSlowError(TimeoutError):
    """The peer sent less than the least rate over a whole window."""


@dataclass(frozen=True)
class Pace:
    """``bytes_per_s`` at the least, on average over each window of ``window_s`` seconds of waiting.

    The default lets a satellite link pass that is shared by a site (8 kbit/s for one board), and ends a drip of a byte
    per read within a minute.
    """

    bytes_per_s: float = 1024.0
    window_s: float = 30.0


class Meter:
    """Bytes received and seconds waited since the window began. No IO; ``monotonic`` is handed in."""

    def __init__(self, pace: Pace, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._pace = pace
        self._monotonic = monotonic
        self._waited = 0.0
        self._received = 0
        self._since: float | None = None

    def restart(self) -> None:
        """A new request: what the last one waited for does not count against it."""
        self._waited, self._received = 0.0, 0

    def wait(self) -> None:
        """The reader begins to wait for the line."""
        self._since = self._monotonic()

    def came(self, count: int) -> None:
        """``count`` bytes arrived; zero says that the peer ended, and is no matter of pace.

        Raises:
            TooSlowError: the window is over, and too little came in it.
        """
        if self._since is not None:
            self._waited += self._monotonic() - self._since
            self._since = None
        self._received += count
        if count == 0 or self._waited < self._pace.window_s:
            return
        if self._received < self._pace.bytes_per_s * self._waited:
            raise TooSlowError(
                f"{self._received} bytes in {self._waited:.0f} s, less than {self._pace.bytes_per_s:.0f} bytes/s"
            )
        self.restart()


def keep(context: ssl.SSLContext, pace: Pace) -> ssl.SSLContext:
    """Let every connection that ``context`` makes keep to ``pace``; a request that is sent opens a new window."""

    class PacedSocket(ssl.SSLSocket):
        """Made by the context through ``sslsocket_class``, so it has no constructor of its own."""

        _hedgerow_meter: Meter | None = None

        def _meter(self) -> Meter:
            if self._hedgerow_meter is None:
                self._hedgerow_meter = Meter(pace)
            return self._hedgerow_meter

        def sendall(self, data: Any, flags: int = 0) -> None:
            self._meter().restart()
            super().sendall(data, flags)

        def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
            meter = self._meter()
            meter.wait()
            count = super().recv_into(buffer, nbytes, flags)
            meter.came(count)
            return count

    context.sslsocket_class = PacedSocket
    return context
