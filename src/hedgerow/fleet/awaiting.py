"""Wait for a host that reboots: ask again until it answers as another boot, or the time is over.

Pure but for what it is given: ``ask`` may raise NetworkError as often as it likes, and does while the host is away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from hedgerow.errors import DeviceError, HedgerowError

POLL_S = 2.0

Answer = Mapping[str, Any]


def until(
    ask: Callable[[], Answer],
    accept: Callable[[Answer], bool],
    *,
    within_s: float,
    what: str,
    host: str,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Answer:
    """Return the first answer that is accepted.

    Raises:
        DeviceError: none was within ``within_s`` seconds; the message has the last answer, or the last error.
    """
    deadline = now() + within_s
    last = "nothing was asked"
    while True:
        try:
            answer = ask()
        except HedgerowError as error:
            last = error.what
        else:
            if accept(answer):
                return answer
            last = f"it answers: {dict(answer)}"
        if now() >= deadline:
            raise DeviceError(
                f"{what} within {within_s:.0f} s; {last}", where=host, next_step="look at its console, or cut its power"
            )
        sleep(POLL_S)


def settled(before: Answer, answer: Answer) -> bool:
    """Whether ``hedgerow.device.restart.state`` shows another boot, and systemd is done with it."""
    booted: bool = answer["boot_id"] is not None and answer["boot_id"] != before["boot_id"]
    return booted and answer["system"] in {"running", "degraded"} and answer["server"] is not False


def worse(before: Answer, answer: Answer) -> list[str]:
    """What was well before the reboot and is not after it."""
    found = [f"{unit} failed" for unit in answer["failed"] if unit not in before["failed"]]
    if before["server"] and not answer["server"]:
        found.append("the server does not answer")
    return found
