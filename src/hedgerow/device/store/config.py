"""Section ``store`` of ``device.yml``: how much a device keeps, and when and how fast it fetches."""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

from msgspec import Struct

_DAY_MINUTES = 24 * 60
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])|24:(00)")


def minutes(clock: str | int) -> int:
    """Minutes after midnight of ``"22:00"``; YAML reads it without quotes as that number already.

    Raises:
        ValueError: no time of a day.
    """
    if isinstance(clock, int):
        if 0 <= clock <= _DAY_MINUTES:
            return clock
    elif _CLOCK.fullmatch(clock):
        hours, _, rest = clock.partition(":")
        return int(hours) * 60 + int(rest)
    raise ValueError(f"{clock!r} is no time of a day; write it like 22:00")


class Window(Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """When this device may fetch: every day ``from`` one time ``to`` another, which may be on the next day."""

    from_: str | int
    to: str | int
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if minutes(self.from_) == minutes(self.to):
            raise ValueError("a window that begins when it ends is never open; leave it out to fetch at any time")
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"there is no time zone {self.timezone!r} here; write it like Europe/Berlin") from error


class StoreConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What a device keeps and how it fetches.

    ``budget_mb``: versions and unfinished downloads take no more than that, as far as they may be removed (None: what
    fits on the disk). ``rate_kb_s``: kilobytes (1000 bytes) a second at the most (None: what the line gives).
    ``window``: when it may fetch (None: always). ``memory_mb``: what building a version may take beside the process
    itself. ``wear``: how many fetched bytes a byte written to flash is worth, ``reading`` the same for a byte read.
    """

    budget_mb: int | None = None
    rate_kb_s: int | None = None
    window: Window | None = None
    memory_mb: int = 64
    wear: float = 0.1
    reading: float = 0.01

    def __post_init__(self) -> None:
        for name in ("budget_mb", "rate_kb_s", "memory_mb"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be more than 0")
        for name in ("wear", "reading"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be less than 0")
