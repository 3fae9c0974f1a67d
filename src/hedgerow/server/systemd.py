"""systemd's side of a service: readiness, stopping, and the watchdog (sd_notify(3), sd_watchdog_enabled(3))."""

from __future__ import annotations

import asyncio
import os
import socket

_MICRO = 1_000_000


def notify(state: str) -> None:
    """Tell systemd; nothing without ``$NOTIFY_SOCKET``."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect(address)
        channel.sendall(state.encode())


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
