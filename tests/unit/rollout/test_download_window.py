"""A window for downloads holds up hosts that have still to fetch, and nobody else."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hedgerow.rollout import decide
from hedgerow.rollout.decide import Go, Wait, WaitCode
from hedgerow.rollout.events import Event, HostFinished, HostStaged, HostStarted, Opened, Outcome, State, replay
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import parse

NIGHT, NOON = datetime(2026, 11, 21, 2, tzinfo=UTC), datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def state(release: Release):
    def make(*events: Event) -> State:
        policy = parse({"windows": {"download": [{"from": "01:00", "to": "05:00"}]}}, where="test")
        plan = Plan(release=release, policy=policy, waves=[["a"], ["b"]])
        made = replay([Opened(at="t", plan=plan, by="ada"), *events])
        assert made is not None
        return made

    return make


def staged(host: str) -> Event:
    return HostStaged(at="t", host=host, seconds=1.0)


def test_inside_of_it_everybody_may_start(state) -> None:
    assert decide.next_wave(state(), 1, NIGHT) == Go(1)
    assert decide.host_may_start(state(), "a", NIGHT) == Go(0)


def test_outside_of_it_who_has_to_fetch_waits_until_it_opens(state) -> None:
    opens = datetime(2026, 11, 22, 1, tzinfo=UTC)
    for said in (decide.next_wave(state(), 1, NOON), decide.host_may_start(state(), "a", NOON)):
        assert isinstance(said, Wait)
        assert (said.code, said.until) == (WaitCode.WINDOW, opens)
        assert "download" in said.reason


def test_who_has_it_already_does_not_wait(state) -> None:
    assert decide.host_may_start(state(staged("a")), "a", NOON) == Go(0)
    assert decide.next_wave(state(staged("a")), 1, NOON) == Go(1)
    assert isinstance(decide.next_wave(state(staged("a")), 2, NOON), Wait)
    over = HostFinished(at="t", host="b", outcome=Outcome.ALREADY, reason="x")
    assert decide.next_wave(state(staged("a"), over), 2, NOON) == Go(2)


def test_whose_turn_has_begun_is_never_held_up(state) -> None:
    assert decide.host_may_start(state(HostStarted(at="t", host="a", before=None)), "a", NOON) == Go(0)
