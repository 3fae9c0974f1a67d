"""Whether a device may fetch now. Pure: the time is handed in.

A clock that is wrong opens the window at a wrong hour and does no other harm; what is fetched is verified all the same.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hedgerow.device.store.config import Window, minutes


def is_open(window: Window | None, now: datetime) -> bool:
    """Whether ``now`` (aware) lies inside, by the clocks of the window's time zone."""
    if window is None:
        return True
    local = now.astimezone(ZoneInfo(window.timezone))
    at, begin, end = local.hour * 60 + local.minute, minutes(window.from_), minutes(window.to)
    return begin <= at < end if begin < end else at >= begin or at < end


def opens(window: Window, now: datetime) -> datetime:
    """The next moment (UTC) at which it opens, after ``now``."""
    zone = ZoneInfo(window.timezone)
    begin = minutes(window.from_) % (24 * 60)
    local = now.astimezone(zone)
    for days in range(3):  # an hour that the clocks skip makes the first two no answer at the worst
        day = local.date() + timedelta(days=days)
        moment = datetime(day.year, day.month, day.day, begin // 60, begin % 60, tzinfo=zone).astimezone(UTC)
        if moment > now:
            return moment
    raise AssertionError("a window that opens every day opens within three")
