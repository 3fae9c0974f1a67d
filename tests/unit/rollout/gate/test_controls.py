from __future__ import annotations

import pytest

from hedgerow.rollout.events import HostFinished, HostStarted, Opened, Outcome, begin
from hedgerow.rollout.gate.controls import choose_controls
from hedgerow.rollout.plan import Held, Plan, Release
from hedgerow.rollout.policy import Policy


@pytest.fixture
def state(release: Release):
    waves = [["a"], ["b", "c"], ["d", "e", "f"]]
    plan = Plan(
        release=release, policy=Policy(), waves=waves, held=[Held("h", "fan on order")], outside_limit=["outside"]
    )
    return begin(Opened(at="t", plan=plan, by="ada"))


def test_only_untouched_hosts_are_chosen(state) -> None:
    state.apply(HostStarted(at="t", host="a", before=None))
    state.apply(HostFinished(at="t", host="a", outcome=Outcome.CONFIRMED, reason="x"))
    state.apply(HostStarted(at="t", host="c", before=None))
    chosen = choose_controls(state.plan, state, "b", 99)
    assert set(chosen) == {"d", "e", "f", "h", "outside"}
    assert choose_controls(state.plan, state, "b", 2) == chosen[:2]


def test_the_choice_is_stable_and_not_the_same_for_every_host(state) -> None:
    assert choose_controls(state.plan, state, "a", 3) == choose_controls(state.plan, state, "a", 3)
    assert len({tuple(choose_controls(state.plan, state, host, 1)) for host in "abcdef"}) > 1


def test_hosts_of_the_same_wave_come_last_and_those_that_were_asked_before_first(state) -> None:
    chosen = choose_controls(state.plan, state, "d", 99)
    assert chosen[-2:] == sorted("ef", key=chosen.index)
    assert choose_controls(state.plan, state, "d", 2, {"e", "f"}) == chosen[-2:]
    state.apply(HostStarted(at="t", host="e", before=None))
    assert choose_controls(state.plan, state, "d", 1, {"e", "f"}) == ["f"]
