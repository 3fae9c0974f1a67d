"""A silent host does not hold up the way back of the others; nobody forgets it either."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hedgerow.errors import NetworkError
from hedgerow.rollout import lease, way_back
from hedgerow.rollout import plan as plans
from hedgerow.rollout.events import (
    Event,
    HostFell,
    HostFinished,
    HostJudged,
    HostRetried,
    HostStarted,
    HostUndone,
    Opened,
    Outcome,
    State,
    replay,
)
from hedgerow.rollout.hostline import Clock
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import parse
from hedgerow.rollout.remote import Completed
from hedgerow.rollout.returns import HostReturns
from hedgerow.rollout.simulate.flaw import Flaw
from hedgerow.rollout.simulate.fleet import Model, synthetic
from hedgerow.rollout.simulate.run import Run

NEW, OLD = "assistant@1.1.0", "assistant@1.0.0"
SILENT_S = 15.0
"""What a try to reach a host costs that does not answer: the connection's time limit."""


class Fleet:
    """Hosts ``a`` to ``e`` with the release; ``silent`` ones do not answer until a moment. Time is a figure."""

    def __init__(self, folder: Path, release: Release, **policy: object) -> None:
        self.journal = Journal(folder)
        self.release = release
        self.now = 0.0
        self.serves = dict.fromkeys("abcde", NEW)
        self.silent_until: dict[str, float] = {}
        self.tries: list[str] = []
        plan = Plan(release=release, policy=parse(policy, where="test"), waves=[["a", "b", "c"], ["d", "e"]])
        self.journal.append(Opened(at="t0", plan=plan, by="ada"))
        for host in "abcde":
            self.journal.append(HostStarted(at="t", host=host, before=OLD))
        for host in "abc":
            self.journal.append(HostFinished(at="t", host=host, outcome=Outcome.CONFIRMED, reason="well"))

    def returns(self, host: str) -> HostReturns:
        start = datetime(2026, 11, 21, 12, tzinfo=UTC)

        def sleep(seconds: float) -> None:
            self.now += seconds

        clock = Clock(lambda: self.now, sleep, lambda: start + timedelta(seconds=self.now))

        def device(arguments: Sequence[str], *, timeout_s: int) -> Completed:
            if self.now < self.silent_until.get(host, 0):
                self.tries.append(host)
                self.now += SILENT_S
                raise NetworkError("no route to host")
            self.now += 1
            if arguments[0] == "revert":
                self.serves[host] = OLD
                return Completed(0, json.dumps({"changed": True}), "")
            name, version = self.serves[host].split("@")
            model = {"name": name, "version": version, "sha256": "01" * 32}
            return Completed(0, json.dumps({"status": "ok", "model": model, "reasons": [], "board": {}}), "")

        return HostReturns(host, self.journal, device, clock)

    def bring_back(self, failed: Sequence[str]) -> dict[str, float]:
        """The rescue of a batch and the plays after it, on one fork; host → when it was back."""
        back: dict[str, float] = {}
        for host in failed:
            self.journal.append(HostJudged(at="t", host=host, verdict="fail", reason="wrong", looks=1, seconds=1))
        for host in failed:
            self.returns(host).revert("gate says fail: wrong")
            self._note(back)
        silent = []
        for host in way_back.order(self.journal.read()):
            if self.returns(host).undo().go:
                silent.append(host)
            self._note(back)
        for host in silent:
            self.returns(host).undo()
            self._note(back)
        return back

    def _note(self, back: dict[str, float]) -> None:
        for host, version in self.serves.items():
            if version == OLD:
                back.setdefault(host, self.now)

    def outcome(self, host: str) -> Outcome | None:
        return self.journal.read().hosts[host].outcome


@pytest.fixture
def fleet(folder: Path, release: Release):
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="ada", since="now")
    return lambda **policy: Fleet(folder, release, **policy)


@pytest.mark.parametrize("attempts", [1, 4, 10])
def test_all_others_are_back_after_one_try_however_often_a_silent_host_is_tried(fleet, attempts: int) -> None:
    there = fleet(retry={"attempts": attempts})
    there.silent_until["d"] = 1e9
    back = there.bring_back(["d", "e"])
    assert set(back) == set("abce")
    # One try of d in its own step; report, revert and report of each of the four others.
    assert max(back.values()) == SILENT_S + 4 * 3
    assert there.outcome("d") is Outcome.LOST
    assert not there.journal.read().turns


def test_a_silent_host_gets_all_its_tries_once_the_others_are_back(fleet) -> None:
    there = fleet(retry={"attempts": 4})
    there.silent_until["d"] = 60.0
    back = there.bring_back(["d", "e"])
    assert set(back) == set("abcde")
    assert back["d"] > max(back[host] for host in "abce")
    assert (there.serves["d"], there.outcome("d")) == (OLD, Outcome.REVERTED)
    assert "it was" not in there.journal.read().hosts["d"].reason.split(";")[0]
    retried = [event.host for event in there.journal.events() if isinstance(event, HostRetried)]
    assert set(retried) == {"d"}


def test_one_that_goes_silent_after_its_confirmation_is_tried_once_and_then_patiently(fleet) -> None:
    there = fleet(retry={"attempts": 3})
    there.silent_until["a"] = 1e9
    back = there.bring_back(["d", "e"])
    assert max(back.values()) == SILENT_S + 4 * 3
    assert there.outcome("a") is Outcome.LOST
    assert "it keeps the release until it is reached" in there.journal.read().hosts["a"].reason
    # Once while the others wait, three times when they are back.
    assert there.tries == ["a"] * 4


def test_where_nobody_waits_it_has_all_its_tries_at_once(fleet) -> None:
    there = fleet(retry={"attempts": 3}, budgets={"failures": 5})
    there.silent_until["d"] = 30.0
    assert there.returns("e").revert("slow").changed
    assert not way_back.others_wait(there.journal.read(), "d", fails=True)
    there.silent_until["d"] = there.now + 20.0
    there.returns("d").revert("slow")
    assert there.outcome("d") is Outcome.REVERTED
    assert there.tries == ["d"] * 2


def test_a_host_that_may_not_be_to_blame_is_not_given_up_for_others_that_may_stay(fleet) -> None:
    there = fleet(retry={"attempts": 3})
    there.silent_until["d"] = 20.0
    for host in "de":
        there.journal.append(HostJudged(at="t", host=host, verdict="environment", reason="hot", looks=1, seconds=1))
    there.returns("d").revert("gate says environment: hot")
    assert there.outcome("d") is Outcome.ENVIRONMENT
    assert there.journal.read().stopped is None


# -- the rule alone -------------------------------------------------------------------------


@pytest.fixture
def state(release: Release):
    def make(*events: Event, **policy: object) -> State:
        plan = Plan(release=release, policy=parse(policy, where="test"), waves=[["a", "b"], ["c"]])
        made = replay([Opened(at="t", plan=plan, by="ada"), *events])
        assert made is not None
        return made

    return make


def confirmed(host: str) -> list[Event]:
    return [
        HostStarted(at="t", host=host, before=OLD),
        HostFinished(at="t", host=host, outcome=Outcome.CONFIRMED, reason="well"),
    ]


def test_others_wait_where_a_stop_takes_them_back_or_is_about_to(state) -> None:
    begun = HostStarted(at="t", host="c", before=OLD)
    assert way_back.others_wait(state(*confirmed("a"), begun), "c", fails=True)
    assert not way_back.others_wait(state(*confirmed("a"), begun), "c")
    assert not way_back.others_wait(state(*confirmed("a"), begun, budgets={"failures": 1}), "c", fails=True)
    assert not way_back.others_wait(state(*confirmed("a"), begun, rollback={"on_stop": "failed"}), "c", fails=True)
    assert not way_back.others_wait(state(begun), "c", fails=True)


def test_others_that_fell_in_a_wait_are_waiting_too(state) -> None:
    fell = [HostFell(at="t", host=host, reason="leak") for host in "ab"]
    worse = state(*confirmed("a"), *confirmed("b"), *fell, budgets={"failures": 5})
    assert way_back.others_wait(worse, "a")
    worse.apply(HostUndone(at="t", host="b", outcome=Outcome.REVERTED, reason="back"))
    assert not way_back.others_wait(worse, "a")


def test_lost_hosts_come_last(state) -> None:
    lost = HostFinished(at="t", host="c", outcome=Outcome.LOST, reason="silent")
    stopped = state(HostStarted(at="t", host="c", before=OLD), lost, *confirmed("a"), *confirmed("b"))
    assert way_back.order(stopped) == ["a", "b", "c"]


# -- the simulator --------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 6])
def test_a_simulated_way_back_does_not_depend_on_it_either(release: Release, attempts: int) -> None:
    model = Model(unreachable=0, lost=0.1)
    policy = parse(
        {"waves": [12, "100%"], "retry": {"attempts": attempts}, "budgets": {"failures": 1}, "stratify": []}, where="t"
    )
    devices = synthetic(40, model, "4")
    plan = plans.make([device.target for device in devices], policy, release)
    run = Run(plan, devices, Flaw.parse("good"), model=model, seed="4", keep=True)
    result = run.run()
    undone = [event for event in run.events if isinstance(event, HostUndone) and event.outcome is Outcome.UNDONE]
    assert undone
    assert run.stopped_at is not None
    start = datetime.fromisoformat(run.events[0].at)
    last = max((datetime.fromisoformat(event.at) - start).total_seconds() for event in undone)
    assert last - run.stopped_at < 2 * model.silent_s
    assert result.forgotten == []
