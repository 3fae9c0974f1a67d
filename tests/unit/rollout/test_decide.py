"""What may happen next, of journals written by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hedgerow.rollout import decide
from hedgerow.rollout.decide import Finish, Go, Stop, Wait, WaitCode
from hedgerow.rollout.events import (
    Event,
    HostFell,
    HostFinished,
    HostStarted,
    HostUndone,
    Opened,
    OperatorAsked,
    Outcome,
    Request,
    RequestKind,
    State,
    Stopped,
    WaveOpened,
    replay,
)
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import parse

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
OLD = "assistant@1.0.0"


@pytest.fixture
def state(release: Release):
    def make(*events: Event, **policy: object) -> State:
        plan = Plan(release=release, policy=parse(policy, where="test"), waves=[["a"], ["b", "c"], ["d"]])
        made = replay([Opened(at="t", plan=plan, by="ada"), *events])
        assert made is not None
        return made

    return make


def started(host: str) -> Event:
    return HostStarted(at="t", host=host, before=OLD)


def finished(host: str, outcome: Outcome) -> Event:
    return HostFinished(at="t", host=host, outcome=outcome, reason="so")


def had(host: str, outcome: Outcome) -> list[Event]:
    return [started(host), finished(host, outcome)]


def asked(kind: RequestKind, *, by: str = "ada", refused: str | None = None, **fields: object) -> Event:
    request = Request(kind=kind, rollout="r", by=by, at="t", **fields)  # type: ignore[arg-type]
    return OperatorAsked(at="t", request=request, refused=refused)


def test_waves_go_one_after_the_other_and_end(state) -> None:
    assert [decide.next_wave(state(), wave, NOW) for wave in (1, 3, 4)] == [Go(1), Go(3), Finish()]


@pytest.mark.parametrize("outcome", [Outcome.REVERTED, Outcome.LOST, Outcome.KEPT])
def test_a_host_that_failed_with_the_release_takes_all_back(state, outcome: Outcome) -> None:
    broken = state(*had("a", Outcome.CONFIRMED), *had("b", outcome), started("c"))
    stop = decide.next_wave(broken, 3, NOW)
    assert isinstance(stop, Stop)
    assert stop.undo
    assert decide.to_undo(broken) == ["a", "c"]
    assert isinstance(decide.host_may_start(broken, "c", NOW), Stop)


@pytest.mark.parametrize("outcome", [Outcome.REFUSED])
def test_a_host_that_was_never_touched_takes_nothing_back(state, outcome: Outcome) -> None:
    broken = state(*had("a", Outcome.CONFIRMED), finished("b", outcome))
    assert decide.next_wave(broken, 2, NOW) == Stop("1 host(s) failed and the rollout may cost 0", undo=False)
    assert decide.to_undo(broken) == []


def test_after_such_a_stop_who_was_cut_off_in_its_turn_ends_it(state) -> None:
    broken = state(started("b"), finished("a", Outcome.REFUSED))
    assert decide.next_wave(broken, 1, NOW) == Go(1)
    assert decide.host_may_start(broken, "b", NOW) == Go(0)
    assert isinstance(decide.host_may_start(broken, "c", NOW), Stop)


def test_a_policy_may_take_back_the_failed_alone(state) -> None:
    events = [*had("a", Outcome.CONFIRMED), *had("b", Outcome.REVERTED)]
    assert decide.to_undo(state(*events, rollback={"on_stop": "failed"})) == []
    assert decide.to_undo(state(*events, asked(RequestKind.ROLLBACK), rollback={"on_stop": "failed"})) == ["a"]


@pytest.mark.parametrize(
    "budgets, outcome, number, stops",
    [
        ({}, Outcome.UNREACHABLE, 3, False),
        ({"unreachable": 1}, Outcome.UNREACHABLE, 1, False),
        ({"unreachable": 1}, Outcome.UNREACHABLE, 2, True),
        ({}, Outcome.ENVIRONMENT, 1, False),
        ({}, Outcome.ENVIRONMENT, 2, True),
        ({"environment": None}, Outcome.ENVIRONMENT, 3, False),
        ({"failures": 2}, Outcome.REVERTED, 2, False),
        ({"failures": 1}, Outcome.REVERTED, 2, True),
        ({}, Outcome.SKIPPED, 3, False),
        ({}, Outcome.UNDONE, 3, False),
    ],
)
def test_budgets_count_across_waves(state, budgets, outcome: Outcome, number: int, *, stops: bool) -> None:
    spent = state(*[finished(host, outcome) for host in "abc"[:number]], budgets=budgets)
    assert isinstance(decide.next_wave(spent, 3, NOW), Stop) is stops


def test_a_stop_follows_from_the_failure_that_spends_the_budget(state) -> None:
    event = finished("b", Outcome.REVERTED)
    after = decide.after(state(*had("a", Outcome.CONFIRMED), started("b"), event), event)
    assert after == [Stopped(at="t", reason="1 host(s) failed and the rollout may cost 0", undo=True)]
    assert decide.after(state(event, *after, finished("c", Outcome.REVERTED)), finished("c", Outcome.REVERTED)) == []


def test_a_confirmed_host_that_gets_worse_counts_and_goes_back(state) -> None:
    fell = HostFell(at="t", host="a", reason="failing")
    worse = state(*had("a", Outcome.CONFIRMED), *had("b", Outcome.CONFIRMED), fell)
    assert decide.next_wave(worse, 3, NOW) == Stop("1 host(s) failed and the rollout may cost 0", undo=True)
    assert sorted(decide.to_undo(worse)) == ["a", "b"]
    bearable = state(*had("a", Outcome.CONFIRMED), *had("b", Outcome.CONFIRMED), fell, budgets={"failures": 1})
    assert decide.next_wave(bearable, 3, NOW) == Go(3)
    assert decide.to_undo(bearable) == ["a"]
    bearable.apply(HostUndone(at="t", host="a", outcome=Outcome.REVERTED, reason="back"))
    assert decide.to_undo(bearable) == []
    assert bearable.tally().failed == 1


def test_a_pause_holds_the_untouched_and_nobody_else(state) -> None:
    paused = state(started("b"), asked(RequestKind.PAUSE, reason="lunch"))
    decision = decide.host_may_start(paused, "c", NOW)
    assert isinstance(decision, Wait)
    assert (decision.code, decision.reason) == (
        WaitCode.PAUSED,
        "paused by ada: lunch; next: hedgerow rollout resume",
    )
    assert decide.host_may_start(paused, "b", NOW) == Go(0)
    paused.apply(asked(RequestKind.RESUME))
    assert decide.host_may_start(paused, "c", NOW) == Go(0)


def test_a_host_that_nobody_could_judge_pauses_the_rollout(state) -> None:
    unsure = state(*had("a", Outcome.UNJUDGED))
    decision = decide.next_wave(unsure, 2, NOW)
    assert isinstance(decision, Wait)
    assert decision.code is WaitCode.NO_DATA
    assert decision.reason.startswith("no verdict on a: so")
    unsure.apply(asked(RequestKind.RESUME))
    assert decide.next_wave(unsure, 2, NOW) == Go(2)


def test_a_wave_waits_for_as_many_of_its_approvers_as_it_needs(state) -> None:
    approvals = [{"before_wave": 2, "by": ["ada", "bob", "eve"], "count": 2}]
    waiting = state(WaveOpened(at="t", number=1, hosts=["a"]), approvals=approvals)
    assert decide.next_wave(waiting, 1, NOW) == Go(1)
    for by in ("ada", "ada"):
        waiting.apply(asked(RequestKind.APPROVE, by=by, wave=2))
        decision = decide.next_wave(waiting, 2, NOW)
        assert isinstance(decision, Wait)
        assert "needs 2 approval(s) and has 1; of: bob, eve" in decision.reason
    waiting.apply(asked(RequestKind.APPROVE, by="bob", refused="its signature is not bob's"))
    assert isinstance(decide.next_wave(waiting, 2, NOW), Wait)
    waiting.apply(asked(RequestKind.APPROVE, by="bob"))
    assert decide.next_wave(waiting, 2, NOW) == Go(2)


def test_an_emergency_stop_needs_no_line_but_its_own(state) -> None:
    """The journal may be cut off between the request and the ``Stopped`` that says the same."""
    stop = asked(RequestKind.ABORT, reason="smoke")
    ended = state(*had("a", Outcome.CONFIRMED), started("b"), stop)
    assert decide.next_wave(ended, 2, NOW) == Stop("emergency stop by ada: smoke", undo=True)
    assert decide.to_undo(ended) == ["a", "b"]
    assert decide.after(ended, stop) == [Stopped(at="t", reason="emergency stop by ada: smoke", undo=True)]


def test_being_superseded_takes_nothing_back(state) -> None:
    ended = state(*had("a", Outcome.CONFIRMED), asked(RequestKind.SUPERSEDE, bundle="assistant@1.2.0"))
    assert decide.next_wave(ended, 2, NOW) == Stop("superseded by assistant@1.2.0, says ada", undo=False)
    assert ended.superseding == "assistant@1.2.0"
    assert decide.to_undo(ended) == []


@pytest.mark.parametrize(
    "events, request_, rule",
    [
        ([], {"kind": RequestKind.PAUSE}, None),
        ([], {"kind": RequestKind.APPROVE, "by": "ada", "wave": 2}, None),
        ([], {"kind": RequestKind.APPROVE, "by": "mallory", "wave": 2}, "rule approvals: wave 2 is approved by ada"),
        ([], {"kind": RequestKind.APPROVE, "by": "ada", "wave": 3}, "rule approvals: wave 3 waits for no approval"),
        ([RequestKind.ABORT], {"kind": RequestKind.PAUSE}, "rule stopped"),
        ([RequestKind.ABORT], {"kind": RequestKind.ROLLBACK}, None),
        ([RequestKind.ROLLBACK], {"kind": RequestKind.ROLLBACK}, "rule no-rollback-of-a-rollback"),
    ],
)
def test_refusals_name_a_rule(state, events, request_, rule: str | None) -> None:
    there = state(*map(asked, events), approvals=[{"before_wave": 2, "by": ["ada"]}])
    request = Request(**({"rollout": "r", "by": "ada", "at": "t"} | request_))
    refused = decide.refusal(there, request)
    assert (refused is None) if rule is None else str(refused).startswith(rule)


def test_a_batch_belongs_to_one_wave(state) -> None:
    assert decide.wave_of(state(), ["c"]) == 2
    with pytest.raises(ValueError, match="no wave has z"):
        decide.wave_of(state(), ["z"])


def test_a_freeze_that_begins_within_a_wave_lets_turns_end_and_none_begin(state) -> None:
    there = state(
        WaveOpened(at="t", number=2, hosts=["b", "c"]),
        started("b"),
        freeze=[{"from": "2026-11-21T12:00Z", "to": "2026-11-22T06:00Z", "reason": "feast"}],
    )
    assert decide.host_may_start(there, "c", datetime(2026, 11, 21, 11, 59, 59, tzinfo=UTC)) == Go(2)
    assert decide.host_may_start(there, "b", NOW) == Go(2)
    held_back = Wait(
        WaitCode.FREEZE,
        "frozen: feast (2026-11-21T12:00Z to 2026-11-22T06:00Z)",
        datetime(2026, 11, 22, 6, tzinfo=UTC),
    )
    assert decide.host_may_start(there, "c", NOW) == held_back
    there.apply(finished("b", Outcome.CONFIRMED))
    assert decide.next_wave(there, 3, NOW) == held_back
    assert decide.next_wave(there, 3, datetime(2026, 11, 22, 6, tzinfo=UTC)) == Go(3)


def test_a_window_ends_for_who_could_not_end_its_turn_within(state) -> None:
    """A turn may take 900 s to activate and 120 s to judge."""
    there = state(windows={"activate": [{"from": "10:00", "to": "12:16"}]})
    decision = decide.next_wave(there, 1, NOW)
    assert isinstance(decision, Wait)
    assert (decision.code, decision.until) == (WaitCode.WINDOW, datetime(2026, 11, 22, 10, tzinfo=UTC))
    assert decide.next_wave(there, 1, datetime(2026, 11, 21, 11, 59, tzinfo=UTC)) == Go(1)


def test_a_rollout_that_is_gone_on_with_visits_whose_turn_is_to_come(state) -> None:
    there = state(*had("a", Outcome.CONFIRMED), *had("b", Outcome.LOST), started("c"))
    assert decide.visits(state()) == (["a", "b", "c", "d"], [1, 2, 1])
    assert decide.visits(there) == (["b", "c", "d"], [2, 1])
    assert decide.visits(state(*[finished(host, Outcome.ALREADY) for host in "abcd"])) == ([], [])
