"""Section ``store`` of ``device.yml``, and when its window is open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow import configfile
from hedgerow.device.store.config import StoreConfig, Window
from hedgerow.device.store.window import is_open, opens

NIGHT = Window(from_="22:00", to="05:00", timezone="Europe/Berlin")


@pytest.mark.parametrize(
    "text, says",
    [
        ("window: {from: '25:00', to: '05:00'}", "'25:00' is no time of a day"),
        ("window: {from: '22:00', to: '22:00'}", "never open"),
        ("window: {from: '22:00', to: '05:00', timezone: Mars/Olympus}", "no time zone 'Mars/Olympus'"),
        ("budget_mb: 0", "budget_mb must be more than 0"),
        ("wear: -1", "wear must not be less than 0"),
        ("chunks: 1", "unknown field"),
    ],
)
def test_what_it_may_not_say(text, says):
    with pytest.raises(msgspec.ValidationError, match=says):
        configfile.decode(text.encode(), StoreConfig)


def test_hours_that_yaml_reads_as_minutes_are_the_same():
    text = b"window: {from: 22:00, to: 05:00, timezone: Europe/Berlin}"
    read = configfile.decode(text, StoreConfig).window
    moments = [datetime(2026, 11, 22, hour, tzinfo=UTC) for hour in range(24)]
    assert [is_open(read, each) for each in moments] == [is_open(NIGHT, each) for each in moments]


@pytest.mark.parametrize(
    "hour, minute, is_so",
    [(20, 59, False), (21, 0, True), (23, 30, True), (3, 59, True), (4, 0, False), (12, 0, False)],
)
def test_a_window_over_midnight_by_its_own_clocks(hour, minute, is_so):
    assert is_open(NIGHT, datetime(2026, 11, 22, hour, minute, tzinfo=UTC)) == is_so, "Berlin is an hour ahead"


def test_none_is_always_open():
    assert is_open(None, datetime(2026, 11, 22, tzinfo=UTC))


@given(
    now=st.integers(0, 365 * 1440).map(lambda minutes: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)),
    begin=st.integers(0, 1439),
    length=st.integers(1, 1439),
)
def test_it_opens_when_it_says(now, begin, length):
    window = Window(begin, (begin + length) % 1440, "Europe/Berlin")
    moment = opens(window, now)
    assert now < moment <= now + timedelta(days=1, hours=2)
    assert is_open(window, moment) or moment.month in {3, 10}, "an hour that the clocks skip or double"
