"""The least rate, by a clock that tests set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.registry.client.pace import Meter, Pace, TooSlowError


class Line:
    """A line on which each read waits ``wait_s`` and brings ``count`` bytes; the reader then works for ``work_s``."""

    def __init__(self, pace: Pace) -> None:
        self.time = 0.0
        self.meter = Meter(pace, lambda: self.time)

    def read(self, count: int, *, wait_s: float, work_s: float = 0.0) -> None:
        self.meter.wait()
        self.time += wait_s
        self.meter.came(count)
        self.time += work_s


def test_a_drip_ends_with_the_window():
    line = Line(Pace(bytes_per_s=100, window_s=30))
    for _ in range(29):
        line.read(1, wait_s=1)
    with pytest.raises(TooSlowError, match=r"30 bytes in 30 s, less than 100 bytes/s"):
        line.read(1, wait_s=1)


def test_what_came_early_does_not_pay_for_a_drip_for_ever():
    line = Line(Pace(bytes_per_s=100, window_s=30))
    line.read(1_000_000, wait_s=30)
    for _ in range(29):
        line.read(1, wait_s=1)
    with pytest.raises(TooSlowError):
        line.read(1, wait_s=1)


def test_a_reader_that_pauses_is_not_a_slow_sender():
    line = Line(Pace(bytes_per_s=100, window_s=30))
    for _ in range(1000):
        line.read(1, wait_s=0.001, work_s=60)


def test_a_request_opens_a_new_window():
    line = Line(Pace(bytes_per_s=100, window_s=30))
    for _ in range(100):
        line.meter.restart()
        line.read(10, wait_s=29)


def test_the_end_of_an_answer_is_no_matter_of_pace():
    line = Line(Pace(bytes_per_s=100, window_s=1))
    line.read(0, wait_s=10)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.001, 10)), min_size=1))
def test_a_line_that_keeps_the_rate_in_every_read_is_never_cut(reads):
    line = Line(Pace(bytes_per_s=100, window_s=5))
    for count, wait_s in reads:
        line.read(max(count, int(100 * wait_s) + 1), wait_s=wait_s)
