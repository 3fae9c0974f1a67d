from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.device.watchdog import AgentConfig, Answer, Look, Watch, begin, due, finding, observe

CONFIG = AgentConfig()
ANSWERED, EXCUSED = Look(Answer.ANSWERED), Look(Answer.EXCUSED, "busy")
FAILED, UNREADY = Look(Answer.FAILED, "it said 'no'"), Look(Answer.UNREADY, "it loads")


def after(*looks: Look, every_s: float = 5.0, watch: Watch | None = None) -> Watch:
    watch = watch or Watch(version="a@2.0.0")
    for number, look in enumerate(looks):
        watch = observe(watch, look, number * every_s)
    return watch


def test_so_many_failures_in_a_row_are_a_finding_and_one_answer_ends_it() -> None:
    assert finding(after(FAILED, FAILED), CONFIG) is None
    assert finding(after(FAILED, FAILED, FAILED), CONFIG) == (
        "3 canonical questions in a row failed: it said 'no'"
    )  # fmt: skip
    assert finding(after(FAILED, FAILED, ANSWERED, FAILED, FAILED), CONFIG) is None
    assert finding(after(FAILED, FAILED, FAILED, ANSWERED), CONFIG) is None


def test_a_good_excuse_neither_counts_nor_clears() -> None:
    assert after(*[EXCUSED] * 1000).failures == 0
    assert finding(after(FAILED, EXCUSED, FAILED, EXCUSED, FAILED), CONFIG) is not None


def test_a_server_that_loads_is_given_time_and_one_that_never_comes_is_not() -> None:
    looks = int(CONFIG.patience_s / 5.0)
    assert finding(after(*[UNREADY] * looks), CONFIG) is None
    assert finding(after(*[UNREADY] * (looks + 1)), CONFIG) == "the server has not been ready for 180 s: it loads"


def test_a_server_that_falls_at_every_question_is_found_although_it_comes_back_in_between() -> None:
    assert finding(after(FAILED, UNREADY, FAILED, UNREADY, FAILED), CONFIG) is not None


def test_time_stands_still_while_there_is_an_excuse() -> None:
    watch = observe(after(UNREADY), EXCUSED, 10_000.0)
    watch = observe(watch, UNREADY, 20_000.0)
    assert watch.unready_s == 0.0
    assert observe(watch, UNREADY, 20_005.0).unready_s == 5.0


def test_another_version_begins_with_nothing_against_it_and_is_asked_at_once() -> None:
    failed = after(FAILED, FAILED, FAILED)
    assert begin(failed, "a@2.0.0") is failed
    for pending in ("a@3.0.0", None):
        watch = begin(failed, pending)
        assert (watch, finding(watch, CONFIG), due(watch, CONFIG, 0.0)) == (Watch(version=pending), None, True)


@pytest.mark.parametrize("version, interval_s", [("a@2.0.0", 5.0), (None, 60.0)])
def test_a_pending_version_is_asked_more_often(version: str | None, interval_s: float) -> None:
    watch = observe(Watch(version=version), ANSWERED, 100.0)
    assert not due(watch, CONFIG, 100.0 + interval_s - 0.1)
    assert due(watch, CONFIG, 100.0 + interval_s)


@given(st.lists(st.sampled_from([ANSWERED, EXCUSED, FAILED, UNREADY]), max_size=60))
def test_no_finding_without_its_failures_or_its_time(looks: list[Look]) -> None:
    """Whatever comes: a finding has either enough failures since the last answer, or enough unready time."""
    since = looks[max((n for n, look in enumerate(looks) if look is ANSWERED), default=-1) + 1 :]
    found = finding(after(*looks), CONFIG)
    if since.count(FAILED) >= CONFIG.failures:
        assert found is not None
    elif len(since) * 5.0 < CONFIG.patience_s:
        assert found is None


@pytest.mark.parametrize("key", ["interval_s", "pending_interval_s", "timeout_s", "failures", "patience_s"])
def test_none_of_it_may_be_nothing(key: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"{key} must be more than 0"):
        msgspec.convert({key: 0}, AgentConfig)
