"""systemd's side of a service: readiness, stopping, and the watchdog (sd_notify(3), sd_watchdog_enabled(3))."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator

from hedgerow.device.notify import notify

_MICRO = 1_000_000
# As long as `hedgerow-device` waits for a load (hedgerow.device.control).
LOADING_S = 600.0


def watchdog_s() -> float | None:
    """Within how many seconds systemd wants a sign of life; None if it does not."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / _MICRO


async def keep_alive() -> None:
    """Give signs of life for as long as the event loop turns, twice as often as asked. Returns if none are wanted."""
    within = watchdog_s()
    while within is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(within / 2)


class Patience:
    """Ask systemd to wait longer for a sign of life while ``loading`` is entered; several may overlap.

    onnxruntime-genai holds Python's lock for as long as it reads a model (measured: all of the 0.2 s of one of 135 M
    parameters), so the event loop stands still. Minutes on a Pi's card are no reason to be killed in an activation.
    """

    def __init__(self) -> None:
        self._inside = 0

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        usual = watchdog_s()
        self._inside += 1
        if self._inside == 1:
            _expect(usual, LOADING_S)
        try:
            yield
        finally:
            self._inside -= 1
            if self._inside == 0:
                _expect(usual, usual)


def _expect(usual: float | None, within: float | None) -> None:
    """Have systemd expect signs of life within other bounds than the unit's; nothing if it expects none."""
    if usual is not None and within is not None:
        # The sign of life first: the new bound is counted from it.
        notify(f"WATCHDOG=1\nWATCHDOG_USEC={max(usual, within) * _MICRO:.0f}")
