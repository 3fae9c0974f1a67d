"""Sections ``windows`` and ``freeze``: when hosts may be changed, in local time. What follows is ``rollout.schedule``.

YAML reads an unquoted ``22:00`` as the number 1320, the minutes after midnight; that is understood, too.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, available_timezones

import msgspec

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60

ClockText = Annotated[str, msgspec.Meta(pattern=r"^([01]?[0-9]|2[0-3]):[0-5][0-9]$|^24:00$")]
ClockMinutes = Annotated[int, msgspec.Meta(ge=0, le=DAY_MINUTES)]
MomentText = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.]+([+-][0-9:]+|Z)?)?$")]

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def minutes(clock: str | int) -> int:
    """Minutes after midnight of ``"22:00"``."""
    if isinstance(clock, int):
        return clock
    hours, _, rest = clock.partition(":")
    return int(hours) * 60 + int(rest)


OWN: Final = frozenset({"localtime", "posixrules", "Factory"})
"""Names in the database that are another zone, or none, on each machine."""


def zone(name: str) -> ZoneInfo:
    """The time zone ``name``.

    Raises:
        ValueError: This machine knows none of that name, or it is one on each machine.
    """
    if name in OWN:
        raise ValueError(f"time zone {name!r} is another on each machine; write it like Europe/Berlin")
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        near = sorted(known for known in available_timezones() if name.rpartition("/")[2][:4] in known)[:3]
        hint = f" (perhaps {', '.join(near)})" if near else ""
        raise ValueError(f"there is no time zone {name!r} here{hint}; write it like Europe/Berlin") from error


class Window(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """A time of the day. ``to`` before ``from``: it ends on the next day; ``days`` are those on which it begins."""

    from_: ClockText | ClockMinutes
    to: ClockText | ClockMinutes
    days: Annotated[list[Day], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: list(DAYS))

    def __post_init__(self) -> None:
        if minutes(self.from_) == DAY_MINUTES:
            raise ValueError("a window begins at 00:00, not at 24:00")
        if minutes(self.from_) == minutes(self.to):
            raise ValueError(
                'a window that begins when it ends is never open; the whole day is from "00:00" to "24:00"'
            )

    @property
    def span(self) -> tuple[int, int]:
        """Minutes after the midnight of its day: begin and end; the end may be on the next day."""
        begin, end = minutes(self.from_), minutes(self.to)
        return begin, end if end > begin else end + DAY_MINUTES


class Windows(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When. An empty list: at any time."""

    timezone: str = "UTC"
    activate: list[Window] = []
    """Hosts start their turn only inside."""
    download: list[Window] = []
    """Devices fetch only inside; may run ahead of the turn."""

    def __post_init__(self) -> None:
        zone(self.timezone)


class Freeze(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """A time in which no host starts. A date alone means the whole day, ``to`` included."""

    from_: MomentText
    to: MomentText
    reason: str = "a freeze"
    timezone: str | None = None
    """None: that of ``windows``. A moment with an offset of its own (``Z``, ``+01:00``) needs none."""

    def __post_init__(self) -> None:
        begin, end = self.local
        if (begin.tzinfo is None) == (end.tzinfo is None) and end <= begin:
            raise ValueError(f"a freeze from {self.from_} to {self.to} ends before it begins")
        if self.timezone is not None:
            zone(self.timezone)

    @property
    def local(self) -> tuple[datetime, datetime]:
        """Begin and end as written: without a zone, but where they have an offset of their own."""
        return _moment(self.from_, end=False), _moment(self.to, end=True)


def _moment(text: str, *, end: bool) -> datetime:
    try:
        if _DATE.fullmatch(text):
            day = date.fromisoformat(text) + timedelta(days=end)
            return datetime.combine(day, time())
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no time; write it like 2026-12-24, or 2026-12-24T18:00") from error
