"""The state is folded one event at a time, and its tallies never differ from a count."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.registry.manifest import GoldenText, Message
from hedgerow.rollout.events import (
    FAILED,
    GOOD,
    Event,
    HostFell,
    HostFinished,
    HostResolved,
    HostStarted,
    HostUndone,
    Opened,
    Outcome,
    Resumed,
    State,
    replay,
)
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy

HOSTS = ["a", "b", "c", "d"]
RELEASE = Release(
    bundle="assistant@1.1.0",
    sha256="5a" * 32,
    size_bytes=1,
    probe=GoldenText(messages=(Message("user", "?"),), expect="!"),
)


def plan(hosts: list[str]) -> Plan:
    return Plan(release=RELEASE, policy=Policy(), waves=[[host] for host in hosts])


host = st.sampled_from(HOSTS)
outcome = st.sampled_from(list(Outcome))
event = st.one_of(
    st.builds(lambda host: HostStarted(at="t", host=host, before=None), host),
    st.builds(lambda host: HostFell(at="t", host=host, reason="x"), host),
    *(
        st.builds(lambda host, outcome, kind=kind: kind(at="t", host=host, outcome=outcome, reason="x"), host, outcome)
        for kind in (HostFinished, HostUndone, HostResolved)
    ),
    st.builds(
        lambda hosts: Resumed(at="t", plan=plan(hosts), by="bob"),
        st.lists(st.sampled_from([*HOSTS, "late"]), unique=True, min_size=1),
    ),
)


def counted(state: State) -> dict[str, int]:
    """As ``State.count``, host by host."""
    return dict(
        Counter(
            str(each.outcome) if each.outcome is not None else "unfinished" if each.started_at else "not_started"
            for each in (state.hosts[name] for name in state.plan.hosts)
        )
    )


@given(st.lists(event, max_size=40))
def test_tallies_are_counts(events: list[Event]) -> None:
    state = replay([Opened(at="t", plan=plan(HOSTS), by="ada")])
    assert state is not None
    for each in events:
        state.apply(each)
        hosts = state.hosts.values()
        outcomes = [known.outcome for known in hosts]
        assert state.count() == counted(state)
        assert state.tally().failed == sum(known in FAILED for known in outcomes) + len(state.fallen)
        assert state.tally().unreachable == outcomes.count(Outcome.UNREACHABLE)
        serving = [name for name, known in state.hosts.items() if known.outcome is Outcome.CONFIRMED]
        assert sorted(state.holding) == sorted(serving)
        assert set(state.fallen) <= set(serving)
        assert sorted(state.lost) == sorted(
            name for name, known in state.hosts.items() if known.outcome is Outcome.LOST
        )
        open_turns = [name for name, known in state.hosts.items() if known.started_at and known.outcome is None]
        assert sorted(state.turns) == sorted(open_turns)
        good = all(state.hosts[name].outcome in GOOD for name in state.plan.hosts)
        assert state.complete == (good and not state.fallen)


def test_who_was_passed_over_has_its_turn_again_after_a_resumption() -> None:
    passed = HostFinished(at="t", host="a", outcome=Outcome.SKIPPED, reason="frozen")
    state = replay([Opened(at="t", plan=plan(HOSTS), by="ada"), passed, Resumed(at="t", plan=plan(HOSTS), by="bob")])
    assert state is not None
    assert state.hosts["a"].outcome is None
    assert state.count() == {"not_started": 4}


def test_a_journal_of_the_first_release_replays() -> None:
    """Lines as they were written before waves, requests and tallies."""
    opening = msgspec.json.encode(Opened(at="t0", plan=plan(["a", "b"]), by="ada"))
    lines = [
        opening,
        b'{"event":"host_started","at":"t1","host":"a","before":"assistant@1.0.0","baseline":["hot"]}',
        b'{"event":"host_activated","at":"t2","host":"a","seconds":1.5}',
        b'{"event":"host_judged","at":"t3","host":"a","verdict":"fail","reason":"slow","looks":3,"seconds":4.0}',
        b'{"event":"host_finished","at":"t4","host":"a","outcome":"reverted","reason":"slow"}',
        b'{"event":"stopped","at":"t5","reason":"1 host(s) failed"}',
        b'{"event":"closed","at":"t6"}',
    ]
    state = replay(msgspec.json.decode(line, type=Event) for line in lines)
    assert state is not None
    assert (state.phase, state.count(), state.undo) == ("stopped", {"reverted": 1, "not_started": 1}, False)
