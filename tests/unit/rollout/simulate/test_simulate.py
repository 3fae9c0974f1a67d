"""Simulated rollouts, of which the properties hold whatever the seed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.errors import UsageError
from hedgerow.registry.manifest import GoldenText, Message
from hedgerow.rollout import html, timeline
from hedgerow.rollout import plan as plans
from hedgerow.rollout.events import (
    FAILED,
    HostFell,
    HostStarted,
    HostUndone,
    Outcome,
    State,
    Stopped,
    WaveOpened,
    replay,
)
from hedgerow.rollout.plan import Release
from hedgerow.rollout.policy import parse
from hedgerow.rollout.simulate.flaw import Flaw
from hedgerow.rollout.simulate.fleet import Model, synthetic
from hedgerow.rollout.simulate.links import Link
from hedgerow.rollout.simulate.recorded import differences
from hedgerow.rollout.simulate.run import Run

QUESTION = GoldenText(messages=(Message("user", "What is the capital of France?"),), expect="Paris")
RELEASE = Release(
    bundle="assistant@1.1.0", sha256="5a" * 32, size_bytes=90_000_000, probe=QUESTION, probes=[QUESTION] * 6
)
ALL_ON = Model(unreachable=0)


def simulated(hosts: int, flaw: str, policy: object = None, *, seed: str = "0", model: Model = ALL_ON, **more) -> Run:
    devices = synthetic(hosts, model, seed)
    plan = plans.make([device.target for device in devices], parse(policy, where="test"), RELEASE)
    return Run(plan, devices, Flaw.parse(flaw), model=model, seed=seed, **more)


def test_a_good_release_reaches_all_and_hurts_nobody() -> None:
    result = simulated(60, "good").run()
    assert (result.phase, result.counts, result.hurt) == ("complete", {"confirmed": 60}, 0)
    assert result.fetched == pytest.approx(60 * RELEASE.size_bytes, rel=1e-6)
    assert len(result.bytes) == 8


def test_the_same_seed_gives_the_same_run_and_another_does_not() -> None:
    first, again, other = (simulated(40, "fails:10", seed=seed).run() for seed in ("7", "7", "8"))
    assert msgspec.json.encode(first) == msgspec.json.encode(again)
    assert first != other


@pytest.mark.parametrize("flaw", ["wrong", "slow:1.8"])
def test_a_release_that_is_bad_everywhere_stops_at_the_first_host(flaw: str) -> None:
    result = simulated(60, flaw).run()
    assert (result.phase, result.stopped_in_wave, result.hurt, result.still_hurt) == ("stopped", 1, 1, 0)
    assert result.hurt_longest_s < 60


def test_a_release_that_fails_its_trial_hurts_nobody() -> None:
    result = simulated(60, "broken").run()
    assert (result.phase, result.touched, result.hurt) == ("stopped", 0, 0)


def test_one_that_fails_without_a_fan_is_caught_by_a_wave_that_has_both() -> None:
    result = simulated(60, "passive", {"waves": [4, "100%"], "stratify": ["cooling"]}).run()
    assert (result.phase, result.stopped_in_wave) == ("stopped", 1)
    assert 0 < result.hurt <= 4


def test_a_leak_that_outlasts_its_soak_is_found_by_the_patrol_during_an_approval() -> None:
    policy = {"waves": [2, "100%"], "approvals": [{"before_wave": 2, "by": ["ada"]}]}
    run = simulated(20, "leak:300", policy, model=Model(unreachable=0, answers_s=1800))
    result = run.run()
    assert (result.phase, result.touched, result.still_hurt) == ("stopped", 2, 0)
    assert 300 < (result.stopped_at_s or 0) < 600


def test_who_gets_worse_in_a_wait_goes_back_at_once_where_the_budget_bears_it() -> None:
    policy = {
        "waves": [4, "100%"],
        "approvals": [{"before_wave": 2, "by": ["ada"]}],
        "budgets": {"failures": 10},
    }
    run = simulated(20, "leak:300", policy, model=Model(unreachable=0, answers_s=1800), keep=True)
    result = run.run()
    assert result.counts == {"confirmed": 16, "reverted": 4}
    undone = [event.at for event in run.events if isinstance(event, HostUndone)]
    opened = [event.at for event in run.events if isinstance(event, WaveOpened)]
    assert len(undone) == 4
    assert max(undone) < opened[1]
    # Whoever falls meanwhile, people answer when they said they would.
    assert result.waited_s == {"approval": 1800.0}


def test_a_stop_says_which_host_brought_it() -> None:
    run = simulated(20, "wrong", keep=True)
    result = run.run()
    host = run.state.plan.hosts[0]
    assert (result.stopped_by or "").startswith(f"{host}: gate says fail")
    assert (result.waves_opened, result.waves) == (1, len(run.state.plan.waves))


def test_throttling_is_the_environments_fault() -> None:
    policy = {"budgets": {"environment": None}}
    result = simulated(30, "good", policy, model=Model(unreachable=0, throttling=0.2)).run()
    assert set(result.counts) == {"confirmed", "environment"}
    assert result.stopped is None


def test_a_host_that_is_lost_in_its_activation_fails_and_is_resolved() -> None:
    run = simulated(20, "good", model=Model(unreachable=0, lost=1.0))
    result = run.run()
    assert (result.phase, result.counts["reverted"], result.forgotten) == ("stopped", 1, [])


def test_an_approval_costs_the_time_that_people_take() -> None:
    waiting = {"approvals": [{"before_wave": 2, "by": ["ada", "bob"], "count": 2}]}
    result = simulated(10, "good", waiting, model=Model(unreachable=0, answers_s=500)).run()
    assert result.phase == "complete"
    assert result.waited_s == {"approval": 500.0}


def test_the_calendar_counts_for_a_simulated_fleet_too() -> None:
    policy = {"windows": {"activate": [{"from": "22:00", "to": "04:00"}]}, "waves": [2, "100%"]}
    run = simulated(20, "good", policy, keep=True)
    result = run.run()
    assert (result.phase, result.waited_s) == ("complete", {"window": 13 * 3600.0})
    started = [event.at for event in run.events if isinstance(event, HostStarted)]
    assert min(started) >= "2026-01-05T22:00"
    assert max(started) < "2026-01-06T04:00"


def test_more_forks_are_quicker_and_change_nothing_else() -> None:
    slow, quick = simulated(60, "good", forks=2).run(), simulated(60, "good", forks=30).run()
    assert quick.duration_s < slow.duration_s / 2
    assert (quick.counts, quick.bytes) == (slow.counts, slow.bytes)


def test_a_link_that_is_too_slow_stops_without_taking_anything_back() -> None:
    model = Model(unreachable=0, link_mbit=0.05, link_spread=0)
    result = simulated(8, "good", model=model).run()
    assert (result.phase, result.touched, result.counts["skipped"]) == ("stopped", 0, 1)
    assert "could not get the release" in (result.stopped or "")


def test_a_link_is_shared_evenly() -> None:
    link = Link(100.0)
    link.begin("a", 1000, 0.0)
    link.begin("b", 1000, 5.0)
    assert link.next_done() == (15.0, "a")
    assert link.finish(15.0) == "a"
    assert link.next_done() == (20.0, "b")
    link.finish(20.0)
    assert link.carried == 2000


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6).map(str),
    flaw=st.sampled_from(["good", "wrong", "slow:2", "passive", "leak:120", "fails:20", "broken"]),
    first=st.integers(1, 5),
    failures=st.integers(0, 3),
    forks=st.integers(1, 12),
    shares=st.tuples(*[st.sampled_from([0.0, 0.1, 0.4])] * 4),
    drill=st.booleans(),
)
def test_nobody_is_forgotten_and_no_budget_is_passed(  # noqa: PLR0917 - what hypothesis draws
    seed: str, flaw: str, first: int, failures: int, forks: int, shares: tuple[float, ...], *, drill: bool
) -> None:
    model = Model(unreachable=shares[0], failing=shares[1], lost=shares[2], throttling=shares[3])
    policy = {"waves": [first, "30%", "100%"], "budgets": {"failures": failures}, "rollback": {"drill": drill}}
    run = simulated(40, flaw, policy, seed=seed, model=model, forks=forks, keep=True)
    result = run.run()
    assert result.forgotten == []
    assert sum(result.counts.values()) == 40
    assert not run.served.keys() - {host for wave in run.state.plan.waves[: run.state.wave] for host in wave}
    if result.stopped is None:
        tally = run.state.tally()
        assert tally.failed <= failures
        assert tally.environment <= 1
    elif run.state.undo:
        # What was taken back is back: nobody has the release any more, but those that nobody could reach.
        assert result.still_hurt == 0
        assert Outcome.CONFIRMED not in run.state.outcomes or not run.state.outcomes[Outcome.CONFIRMED]
    assert html.render("r", run.events)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6).map(str),
    flaw=st.sampled_from(["good", "wrong", "slow:2", "fails:30", "leak:60", "broken"]),
    failures=st.integers(0, 4),
    forks=st.integers(1, 12),
    unreachable=st.sampled_from([0.0, 0.3]),
    failing=st.sampled_from([0.0, 0.2]),
)
def test_a_spent_budget_is_passed_by_none_but_those_in_their_turn(  # noqa: PLR0917 - what hypothesis draws
    seed: str, flaw: str, failures: int, forks: int, unreachable: float, failing: float
) -> None:
    policy = {"waves": [3, "40%", "100%"], "budgets": {"failures": failures, "unreachable": 2}}
    model = Model(unreachable=unreachable, failing=failing)
    run = simulated(40, flaw, policy, seed=seed, model=model, forks=forks, keep=True)
    run.run()
    happened = run.events
    end = next((number for number, event in enumerate(happened) if isinstance(event, Stopped)), len(happened))
    then = replay(happened[:end])
    assert then is not None
    # One more than the budget spends it, and that one brought the stop.
    assert then.tally().failed <= failures + 1
    assert then.tally().unreachable <= 2 + 1
    assert not [event for event in happened[end:] if isinstance(event, HostStarted)]
    # Several may have fallen in the looks before one wave; each of them is journaled.
    ended_at = happened[end].at if end < len(happened) else None
    fell = {event.host for event in happened if isinstance(event, HostFell) and event.at == ended_at}
    assert _failed(run.state) <= _failed(then) | set(then.turns) | fell
    # Hosts that were being asked when it stopped, as many as there are forks, may turn out to be off.
    assert run.state.tally().unreachable <= then.tally().unreachable + forks - 1


def _failed(state: State) -> set[str]:
    return {name for name, host in state.hosts.items() if host.outcome in FAILED or name in state.fallen}


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6).map(str),
    flaw=st.sampled_from(["wrong", "slow:2.5", "fails:100"]),
    first=st.integers(1, 6),
)
def test_a_release_that_fails_everywhere_never_leaves_the_first_wave(seed: str, flaw: str, first: int) -> None:
    result = simulated(40, flaw, {"waves": [first, "100%"]}, seed=seed).run()
    assert 1 <= result.hurt <= first
    assert result.stopped_in_wave == 1


def test_a_recorded_rollout_agrees_with_its_own_policy() -> None:
    for flaw in ("good", "wrong", "fails:30"):
        run = simulated(30, flaw, {"waves": [2, "100%"]}, keep=True)
        run.run()
        assert differences(run.events) == []


def test_a_stricter_policy_says_where_it_would_have_stopped_or_waited() -> None:
    run = simulated(30, "fails:30", {"waves": [2, "100%"], "budgets": {"failures": 30}}, seed="3", keep=True)
    run.run()
    first = differences(run.events, parse({"waves": [2, "100%"]}, where="test"))[0]
    assert first.policy.startswith("stop: 1 host(s) failed")
    waits = parse({"approvals": [{"before_wave": 2, "by": ["ada"]}], "budgets": {"failures": 30}}, where="test")
    assert [each.policy.split(":")[0] for each in differences(run.events, waits)] == ["wait, approval"]


def test_a_looser_policy_says_that_it_would_have_gone_on() -> None:
    run = simulated(30, "wrong", keep=True)
    run.run()
    found = differences(run.events, parse({"budgets": {"failures": 5}}, where="test"))
    assert [each.policy for each in found] == ["go on: no budget is spent"]


def test_many_hosts_are_drawn_as_waves() -> None:
    run = simulated(250, "wrong", keep=True)
    run.run()
    line = timeline.of(run.events)
    assert line.by_wave
    assert [each.hosts for each in line.lines] == [1, 24, 100, 125]
    assert line.lines[0].mark == "1 reverted"


def test_a_share_and_a_percentage_of_hosts_are_the_same() -> None:
    assert Flaw.parse("flaky:0.05") == Flaw.parse("fails:5") == Flaw.parse("flaky")


@pytest.mark.parametrize("text", ["flaky:1.1", "bad", "slow:x", "slow:-1", "good:2", "fails:101", "leak:inf"])
def test_a_release_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Flaw.parse(text)
