"""The calendar of a policy, at moments around clock changes, midnights and freezes. Times are UTC unless said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import UsageError
from hedgerow.rollout import policy as policies
from hedgerow.rollout import schedule
from hedgerow.rollout.policy import Policy
from hedgerow.rollout.schedule import Closed, Open

BERLIN = "Europe/Berlin"


def policy(**fields: object) -> Policy:
    return policies.parse(fields, where="test")


def windows(*entries: dict[str, object], zone: str = BERLIN) -> Policy:
    return policy(windows={"timezone": zone, "activate": list(entries)})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def opens(made: Policy, now: str, **more: float) -> datetime | None:
    """When it opens; the moment itself where it is open."""
    said = schedule.may_activate(made, at(now), **more)
    return at(now) if isinstance(said, Open) else said.until


def closes(made: Policy, now: str) -> datetime | None:
    said = schedule.may_activate(made, at(now))
    assert isinstance(said, Open), said
    return said.until


NIGHTS = {"days": ["mon", "tue", "wed", "thu", "fri"], "from": "22:00", "to": "05:00"}


def test_without_a_calendar_it_is_open_for_ever() -> None:
    assert schedule.may_activate(Policy(), at("2026-11-21T12:00")) == Open()
    assert schedule.may_download(Policy(), at("2026-11-21T12:00")) == Open()


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    nights = windows(NIGHTS)
    # 20 November 2026 is a Friday; Berlin is an hour ahead of UTC.
    assert opens(nights, "2026-11-20T20:59:59") == at("2026-11-20T21:00")
    assert closes(nights, "2026-11-20T21:00") == at("2026-11-21T04:00")
    assert closes(nights, "2026-11-21T03:59:59") == at("2026-11-21T04:00")
    assert opens(nights, "2026-11-21T04:00") == at("2026-11-23T21:00")
    # The night to Monday would have begun on Sunday.
    assert opens(nights, "2026-11-23T00:00") == at("2026-11-23T21:00")


def test_the_same_moment_in_another_time_zone_is_the_same_answer() -> None:
    nights = windows(NIGHTS)
    kyiv = datetime(2026, 11, 20, 23, 0, tzinfo=ZoneInfo("Europe/Kyiv"))
    assert schedule.may_activate(nights, kyiv) == schedule.may_activate(nights, at("2026-11-20T21:00"))


def test_an_hour_that_is_skipped_is_no_window() -> None:
    """On 29 March 2026 Berlin goes from 02:00 to 03:00, which is 01:00 UTC."""
    inside = windows({"from": "02:15", "to": "02:45"})
    assert opens(inside, "2026-03-28T02:00") == at("2026-03-30T00:15")
    across = windows({"from": "02:30", "to": "04:00"})
    assert opens(across, "2026-03-29T00:30") == at("2026-03-29T01:00")
    assert closes(across, "2026-03-29T01:00") == at("2026-03-29T02:00")
    before = windows({"from": "01:00", "to": "02:30"})
    assert closes(before, "2026-03-29T00:30") == at("2026-03-29T01:00")


def test_a_weekly_window_in_the_skipped_hour_opens_a_week_later() -> None:
    sundays = windows({"days": ["sun"], "from": "02:15", "to": "02:45"})
    assert opens(sundays, "2026-03-23T00:00") == at("2026-04-05T00:15")


def test_an_hour_that_comes_twice_is_one_window() -> None:
    """On 25 October 2026 Berlin goes from 03:00 back to 02:00, which is 01:00 UTC."""
    twice = windows({"from": "02:30", "to": "02:45"})
    assert closes(twice, "2026-10-25T00:30") == at("2026-10-25T00:45")
    assert opens(twice, "2026-10-25T01:30") == at("2026-10-26T01:30")
    night = windows(NIGHTS | {"days": ["sat"]})
    assert closes(night, "2026-10-24T20:00") == at("2026-10-25T04:00")
    assert at("2026-10-25T04:00") - at("2026-10-24T20:00") == timedelta(hours=8)


def test_windows_that_touch_are_one() -> None:
    made = windows({"from": "20:00", "to": "22:00"}, NIGHTS)
    assert closes(made, "2026-11-20T19:30") == at("2026-11-21T04:00")


def test_a_freeze_is_never_shorter_than_it_was_meant() -> None:
    frozen = policy(freeze=[{"from": "2026-10-25T02:30", "to": "2026-10-25T02:40", "timezone": BERLIN, "reason": "x"}])
    assert closes(frozen, "2026-10-25T00:00") == at("2026-10-25T00:30")
    assert opens(frozen, "2026-10-25T00:30") == at("2026-10-25T01:40")
    skipped = policy(freeze=[{"from": "2026-03-29T02:10", "to": "2026-03-29T02:50", "timezone": BERLIN}])
    assert opens(skipped, "2026-03-29T00:59:59") == at("2026-03-29T00:59:59")
    assert opens(skipped, "2026-03-29T01:00") == at("2026-03-29T01:00")


def test_days_of_a_freeze_are_whole_and_local() -> None:
    frozen = policy(
        windows={"timezone": BERLIN}, freeze=[{"from": "2026-12-20", "to": "2027-01-02", "reason": "feast"}]
    )
    assert closes(frozen, "2026-12-19T22:59:59") == at("2026-12-19T23:00")
    said = schedule.may_activate(frozen, at("2026-12-19T23:00"))
    assert said == Closed("freeze", "frozen: feast (2026-12-20 to 2027-01-02)", at("2027-01-02T23:00"))
    assert schedule.may_activate(frozen, at("2027-01-02T23:00")) == Open()


def test_an_offset_of_its_own_counts_for_a_freeze() -> None:
    frozen = policy(
        windows={"timezone": BERLIN}, freeze=[{"from": "2026-12-20T00:00Z", "to": "2026-12-20T00:00-05:00"}]
    )
    assert opens(frozen, "2026-12-20T00:00") == at("2026-12-20T05:00")


def test_after_a_freeze_comes_the_next_window_and_after_that_the_next_freeze() -> None:
    made = policy(
        windows={"timezone": "UTC", "activate": [{"from": "22:00", "to": "23:00"}]},
        freeze=[
            {"from": "2026-12-01", "to": "2026-12-03", "reason": "one"},
            {"from": "2026-12-04T12:00", "to": "2026-12-05T22:30", "reason": "two"},
        ],
    )
    assert opens(made, "2026-12-02T22:30") == at("2026-12-05T22:30")
    assert closes(made, "2026-12-05T22:30") == at("2026-12-05T23:00")
    hit = schedule.may_activate(made, at("2026-12-02T22:30"))
    assert isinstance(hit, Closed)
    assert hit.because.startswith("frozen: one")


def test_a_freeze_inside_a_window_ends_it() -> None:
    made = policy(
        windows={"timezone": "UTC", "activate": [{"from": "20:00", "to": "23:00"}]},
        freeze=[{"from": "2026-12-01T21:00", "to": "2026-12-01T22:00"}],
    )
    assert closes(made, "2026-12-01T20:00") == at("2026-12-01T21:00")
    assert closes(made, "2026-12-01T22:00") == at("2026-12-01T23:00")


def test_nobody_starts_whose_turn_would_not_be_over_by_the_end() -> None:
    made = windows({"from": "22:00", "to": "23:00"}, zone="UTC")
    assert opens(made, "2026-12-01T22:40", needs_s=1200) == at("2026-12-01T22:40")
    late = schedule.may_activate(made, at("2026-12-01T22:41"), needs_s=1200)
    assert isinstance(late, Closed)
    assert (late.code, late.until) == ("window", at("2026-12-02T22:00"))
    assert "ends at 23:00 (UTC), and a turn takes up to 1200 s" in late.because


def test_a_window_shorter_than_a_turn_never_opens() -> None:
    made = windows({"from": "22:00", "to": "22:15"})
    assert schedule.longest_turn_s(made) == 900 + 120
    assert opens(made, "2026-12-01T12:00", needs_s=schedule.longest_turn_s(made)) is None


def test_downloads_have_windows_of_their_own() -> None:
    made = policy(
        windows={
            "timezone": "UTC",
            "activate": [{"from": "22:00", "to": "23:00"}],
            "download": [{"from": "08:00", "to": "18:00"}],
        }
    )
    assert isinstance(schedule.may_download(made, at("2026-12-01T12:00")), Open)
    assert isinstance(schedule.may_activate(made, at("2026-12-01T12:00")), Closed)
    night = schedule.may_download(made, at("2026-12-01T22:30"))
    assert isinstance(night, Closed)
    assert night.because == "outside of the download windows; the next opens on Wed 2026-12-02 08:00 (UTC)"


def test_yaml_reads_clocks_and_days_in_ways_of_its_own() -> None:
    """Unquoted, ``22:00`` is 1320 and ``2026-12-20`` a date."""
    import yaml

    text = """
    windows: {timezone: UTC, activate: [{from: 22:00, to: 23:00}]}
    freeze: [{from: 2026-12-20, to: 2026-12-24T18:00:00, reason: feast}]
    """
    made = policies.parse(yaml.safe_load(text), where="test")
    assert opens(made, "2026-12-01T12:00") == at("2026-12-01T22:00")
    assert opens(made, "2026-12-20T12:00") == at("2026-12-24T22:00")


@pytest.mark.parametrize(
    "value, says",
    [
        (
            {"windows": {"timezone": "Europe/Berln"}},
            "there is no time zone 'Europe/Berln' here (perhaps Europe/Berlin)",
        ),
        ({"windows": {"activate": [{"from": "22:00", "to": "22:00"}]}}, "never open"),
        ({"windows": {"activate": [{"from": "24:00", "to": "05:00"}]}}, "begins at 00:00"),
        ({"windows": {"activate": [{"from": "25:00", "to": "05:00"}]}}, "$.windows.activate[0].from"),
        ({"windows": {"activate": [{"from": "22:00", "to": "05:00", "days": []}]}}, "length >= 1"),
        ({"windows": {"activate": [{"from": "22:00", "to": "05:00", "days": ["monday"]}]}}, "'monday'"),
        ({"freeze": [{"from": "2026-12-24", "to": "2026-12-20"}]}, "ends before it begins"),
        ({"freeze": [{"from": "2026-12-20T25:00", "to": "2026-12-24"}]}, "is no time"),
        ({"freeze": [{"from": "2026-12-20", "to": "2026-12-24", "timezone": "Mars/Olympus"}]}, "no time zone"),
        ({"freeze": [{"from": "2026-12-20", "to": "2026-12-24", "why": "x"}]}, "unknown field `why`"),
    ],
)
def test_a_wrong_calendar_says_what_is_wrong(value: object, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        policies.parse(value, where="test")
    assert says in caught.value.what


ZONES = [
    "Europe/Berlin",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Pacific/Apia",
    "America/Havana",
    "UTC",
]
_DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_windows = st.builds(
    lambda begin, length, days: {"from": begin, "to": (begin + length) % 1440, "days": sorted(days)},
    st.integers(0, 1439),
    st.integers(1, 1439),
    st.sets(st.sampled_from(_DAYS), min_size=1),
)
_moments = st.integers(0, 400 * 24 * 60).map(lambda minutes: at("2026-01-01T00:00") + timedelta(minutes=minutes))
_freezes = st.builds(
    lambda begin, hours: {"from": f"{begin:%Y-%m-%dT%H:%M}", "to": f"{begin + timedelta(hours=hours):%Y-%m-%dT%H:%M}"},
    _moments,
    st.integers(2, 200),
)


@given(st.sampled_from(ZONES), st.lists(_windows, min_size=1, max_size=3), st.lists(_freezes, max_size=3), _moments)
def test_what_is_said_of_the_time_to_come_holds(
    zone: str, entries: list[dict[str, object]], frozen: list[dict[str, object]], now: datetime
) -> None:
    """It stays open until it is said to close, and stays closed until it is said to open."""
    made = policy(windows={"timezone": zone, "activate": entries}, freeze=frozen)
    said = schedule.may_activate(made, now)
    assert said.until is not None
    assert said.until > now
    last = said.until - timedelta(seconds=1)
    middle = now + (said.until - now) / 2
    for moment in (middle, last):
        if moment >= now:
            assert type(schedule.may_activate(made, moment)) is type(said)
    if isinstance(said, Closed):
        assert isinstance(schedule.may_activate(made, said.until), Open)
