"""Whether a host may start now, by the calendar: freezes, windows, time zones. Pure: the time comes as a value.

Local times that a change of the clocks makes unclear are read like this:

- one that comes twice is the first for the begin and the end of a window, the
  first for the begin of a freeze and the second for its end;
- one that never comes is the moment at which the clocks are put forward.

So a freeze is never shorter than it was meant, and a window never opens twice.
A freeze's begin is hard for who has not started: from that moment on nobody does,
and who is in the middle of a turn ends it. A window's end is hard for everybody:
nobody starts whose turn, at its longest, would not be over by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

from hedgerow.rollout.policy import Policy
from hedgerow.rollout.policy.schedule import DAYS, Freeze, Window, zone

HORIZON_DAYS = 15
"""A window that opens on one day of the week opens within 7 days, or 14 where its hour is skipped in the first."""


class Open(msgspec.Struct, frozen=True):
    """Hosts may start ``until`` then (UTC); None: nothing ends it."""

    until: datetime | None = None


class Closed(msgspec.Struct, frozen=True):
    """No host may start. ``until`` (UTC): the first moment at which one may; None: there is none in sight."""

    code: Literal["freeze", "window"]
    because: str
    until: datetime | None = None


def may_activate(policy: Policy, now: datetime, *, needs_s: float = 0) -> Open | Closed:
    """Whether a host may start its turn at ``now`` (aware). ``needs_s``: it must be over before the window ends."""
    return _judge(policy, policy.windows.activate, now, needs_s, "activation")


def longest_turn_s(policy: Policy) -> float:
    """Seconds from a host's start until its verdict, at most: activation and soak, each up to its deadline."""
    return policy.activate_within_s + policy.soak.deadline_s


def may_download(policy: Policy, now: datetime) -> Open | Closed:
    """Whether devices may fetch at ``now`` (aware). A freeze stops changes and the traffic for them alike."""
    return _judge(policy, policy.windows.download, now, 0, "download")


def _judge(policy: Policy, windows: Sequence[Window], now: datetime, needs_s: float, what: str) -> Open | Closed:
    if not windows and not policy.freeze:
        return Open()
    now = now.astimezone(UTC)
    frozen = freezes(policy)
    closed = _closed(policy, windows, frozen, now, needs_s, what)
    if closed is None:
        ends = [begin for begin, _, _ in frozen if begin > now]
        window = _window(policy, windows, now)
        return Open(min([*ends, *([] if window is None else [window[1]])], default=None))
    until = _opens(policy, windows, frozen, now, needs_s, what)
    if closed.code == "window" and until is not None:
        local = policy.windows.timezone
        because = f"{closed.because}; the next opens on {until.astimezone(zone(local)):%a %Y-%m-%d %H:%M} ({local})"
        return Closed("window", because, until)
    return msgspec.structs.replace(closed, until=until)


def _closed(  # noqa: PLR0917 - the calendar, and where in it
    policy: Policy,
    windows: Sequence[Window],
    frozen: Sequence[tuple[datetime, datetime, Freeze]],
    now: datetime,
    needs_s: float,
    what: str,
) -> Closed | None:
    """Why it is closed at ``now``, with the end of that reason alone; None if it is open."""
    for begin, end, freeze in frozen:
        if begin <= now < end:
            return Closed("freeze", f"frozen: {freeze.reason} ({freeze.from_} to {freeze.to})", end)
    if not windows:
        return None
    window = _window(policy, windows, now)
    local = policy.windows.timezone
    if window is None or window[0] > now:
        return Closed("window", f"outside of the {what} windows", None if window is None else window[0])
    if window[1] - now < timedelta(seconds=needs_s):
        shuts = window[1].astimezone(zone(local))
        reason = f"the {what} window ends at {shuts:%H:%M} ({local}), and a turn takes up to {needs_s:.0f} s"
        return Closed("window", reason, window[1])
    return None


def _opens(  # noqa: PLR0917 - as _closed
    policy: Policy,
    windows: Sequence[Window],
    frozen: Sequence[tuple[datetime, datetime, Freeze]],
    now: datetime,
    needs_s: float,
    what: str,
) -> datetime | None:
    """The first moment from ``now`` on that nothing closes."""
    moment = now
    # Each freeze can move the search on once to its end and once to the next window; a window that is too short for
    # a turn moves it on to its end.
    for _ in range(4 * (len(frozen) + len(windows) * HORIZON_DAYS) + 4):
        closed = _closed(policy, windows, frozen, moment, needs_s, what)
        if closed is None:
            return moment
        if closed.until is None:
            return None
        moment = closed.until
    return None


def freezes(policy: Policy) -> Sequence[tuple[datetime, datetime, Freeze]]:
    """Begin and end (UTC) of every freeze, in order."""
    return _freezes(tuple(policy.freeze), policy.windows.timezone)


@lru_cache(maxsize=64)
def _freezes(entries: tuple[Freeze, ...], timezone: str) -> Sequence[tuple[datetime, datetime, Freeze]]:
    found = []
    for freeze in entries:
        place = zone(freeze.timezone or timezone)
        begin, end = freeze.local
        found.append((_utc(begin, place), _utc(end, place, second=True), freeze))
    return tuple(sorted(found, key=lambda each: each[:2]))


def _window(policy: Policy, windows: Sequence[Window], now: datetime) -> tuple[datetime, datetime] | None:
    """The window that is open at ``now``, else the next (UTC); windows that touch are one. None: none in sight."""
    place = zone(policy.windows.timezone)
    found: tuple[datetime, datetime] | None = None
    for begin, end in _spans(windows, now, place):
        if end <= now:
            continue
        if found is None:
            found = begin, end
        elif begin <= found[1]:
            found = found[0], max(found[1], end)
        else:
            break
    return found


def _spans(windows: Sequence[Window], now: datetime, place: ZoneInfo) -> Iterator[tuple[datetime, datetime]]:
    """Begin and end of the windows around ``now``, by their begin."""
    # A window that runs over midnight began on the day before.
    first = now.astimezone(place).date() - timedelta(days=1)
    for number in range(HORIZON_DAYS + 2):
        day = first + timedelta(days=number)
        spans = (_span(day, *window.span, place) for window in windows if DAYS[day.weekday()] in window.days)
        # Where the clocks skip an hour, a window in it is none.
        yield from sorted(span for span in spans if span[0] < span[1])


@lru_cache(maxsize=1024)
def _span(day: date, begin: int, end: int, place: ZoneInfo) -> tuple[datetime, datetime]:
    midnight = datetime.combine(day, time())
    return _utc(midnight + timedelta(minutes=begin), place), _utc(midnight + timedelta(minutes=end), place)


def _utc(local: datetime, place: ZoneInfo, *, second: bool = False) -> datetime:
    """``local`` (an offset of its own counts) in UTC. ``second``: of a time that comes twice, the later one."""
    if local.tzinfo is not None:
        return local.astimezone(UTC)
    early, late = (local.replace(tzinfo=place, fold=fold).astimezone(UTC) for fold in (0, 1))
    if early <= late:
        return late if second else early
    # It never comes: between ``late`` and ``early`` the clocks are put forward.
    return _jump(late, early, lambda moment: moment.astimezone(place).utcoffset())


def _jump(before: datetime, after: datetime, offset: Callable[[datetime], timedelta | None]) -> datetime:
    """The whole second at which the offset changes."""
    old = offset(before)
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=(after - before) // timedelta(seconds=2))
        if offset(middle) == old:
            before = middle
        else:
            after = middle
    return after
