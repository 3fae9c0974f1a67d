from __future__ import annotations

import pytest

from hedgerow.rollout import serving
from hedgerow.rollout.events import HostState, Outcome, State
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy

OLD = "assistant@1.0.0"
NEEDS = {"assistant@1.1.0": 3000, OLD: 900, "assistant@0.9.0": 500}


def state(release: Release, **hosts: HostState) -> State:
    plan = Plan(release=release, policy=Policy(), waves=[[name] for name in hosts])
    return State(plan=plan, opened_at="t", by="ada", hosts=hosts)


def known(*states: State, host: str = "pi") -> int | None:
    return serving.memory_mb([host], states, NEEDS.get)[host]


@pytest.mark.parametrize(
    "outcome, memory_mb",
    [
        (Outcome.CONFIRMED, 3000),
        (Outcome.ALREADY, 3000),
        (Outcome.KEPT, 3000),
        (Outcome.REVERTED, 900),
        (Outcome.UNDONE, 900),
        (Outcome.ENVIRONMENT, 900),
        (Outcome.LOST, None),
        (None, None),
    ],
)
def test_what_a_rollout_left_a_host_with(release: Release, outcome: Outcome | None, memory_mb: int | None) -> None:
    assert known(state(release, pi=HostState(started_at="t", before=OLD, outcome=outcome))) == memory_mb


def test_a_host_that_served_nothing_needs_nothing(release: Release) -> None:
    assert known(state(release, pi=HostState(started_at="t", outcome=Outcome.REVERTED))) == 0


def test_a_rollout_that_did_not_touch_a_host_leaves_the_word_to_an_older_one(release: Release) -> None:
    untouched = [HostState(), HostState(outcome=Outcome.UNREACHABLE), HostState(outcome=Outcome.REFUSED)]
    older = state(release, pi=HostState(started_at="t", outcome=Outcome.CONFIRMED))
    for host in untouched:
        assert known(state(release, pi=host), older) == 3000
    assert known(state(release, other=HostState()), older) == 3000
    assert known(state(release, pi=HostState())) is None


def test_the_newest_word_counts_and_no_older_journal_is_read(release: Release) -> None:
    def newest_first():
        yield state(release, pi=HostState(started_at="t", before=OLD, outcome=Outcome.REVERTED))
        raise AssertionError("read although every host is known")

    assert serving.memory_mb(["pi"], newest_first(), NEEDS.get) == {"pi": 900}


def test_a_version_that_the_registry_does_not_know_is_unknown(release: Release) -> None:
    assert known(state(release, pi=HostState(started_at="t", before="x@1.0.0", outcome=Outcome.UNDONE))) is None
