"""Confirmed hosts are looked at before each wave, so that a leak shows where waves follow each other without a wait."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hedgerow.rollout import decide, lease, lint, requests
from hedgerow.rollout import plan as plans
from hedgerow.rollout.events import (
    HostFell,
    HostFinished,
    HostStarted,
    HostUndone,
    Opened,
    Outcome,
    Rechecked,
    Request,
    RequestKind,
    WaveOpened,
)
from hedgerow.rollout.gate.samples import Look
from hedgerow.rollout.hostline import Clock
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.patrol import LOOKS_PER_S, Patrol, Round, sample
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import parse
from hedgerow.rollout.simulate.flaw import Flaw
from hedgerow.rollout.simulate.fleet import Model, synthetic
from hedgerow.rollout.simulate.run import Run
from hedgerow.rollout.waiting import Turn, await_wave

OLD = "assistant@1.0.0"


class Site:
    """``confirmed`` hosts with the release, one more to come in a wave of its own, and a clock of short seconds."""

    def __init__(self, folder: Path, release: Release, confirmed: int = 3, **policy: object) -> None:
        self.journal, self.release = Journal(folder), release
        self.hosts = [f"pi-{number}" for number in range(confirmed)]
        plan = Plan(release=release, policy=parse(policy, where="test"), waves=[self.hosts, ["last"]])
        self.journal.append(Opened(at="t0", plan=plan, by="ada"))
        for host in self.hosts:
            self.journal.append(HostStarted(at="t", host=host, before=OLD))
            self.journal.append(HostFinished(at="t", host=host, outcome=Outcome.CONFIRMED, reason="well"))
        self.bad: set[str] = set()
        self.off: set[str] = set()
        self.looked: list[str] = []
        self.now = 0.0

    def look_at(self, host: str) -> Callable[[], Look]:
        def look() -> Look:
            self.looked.append(host)
            if host in self.off:
                return Look(at=0, reached=False, note="no route")
            status, reasons = ("failing", {"requests_fail"}) if host in self.bad else ("ok", set())
            return Look(
                at=0,
                reached=True,
                status=status,
                version=self.release.bundle,
                sha256=self.release.sha256,
                reasons=frozenset(reasons),
            )

        return look

    def sleep(self, seconds: float) -> None:
        time.sleep(0.005)
        self.now += seconds

    def wait(self, attend: Callable[[], object] = lambda: None) -> Turn:
        start = datetime(2026, 11, 21, 12, tzinfo=UTC)
        clock = Clock(lambda: self.now, self.sleep, lambda: start + timedelta(seconds=self.now))
        patrol = Patrol(self.release, self.look_at, falls_after=3)
        return await_wave(self.journal, ["last"], patrol, attend, lambda _: None, clock)

    def happened(self, *kinds: type) -> list[object]:
        return [event for event in self.journal.events() if isinstance(event, kinds)]


@pytest.fixture
def site(folder: Path, release: Release):
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="ada", since="now")
    return lambda confirmed=3, **policy: Site(folder, release, confirmed, **policy)


def test_who_is_well_is_looked_at_once_and_the_wave_goes(site) -> None:
    there = site()
    assert not there.wait().over
    assert sorted(there.looked) == there.hosts
    [event] = there.happened(Rechecked)
    assert (event.hosts, event.last, event.away, event.back) == (3, "pi-2", [], [])
    assert [type(event) for event in there.journal.events()[-2:]] == [Rechecked, WaveOpened]
    assert there.now < 2


def test_a_leak_between_waves_stops_the_rollout_before_the_next_one(site) -> None:
    there = site()
    there.bad = {"pi-1"}
    turn = there.wait()
    assert turn.over
    assert turn.msg == "stopped: 1 host(s) failed and the rollout may cost 0"
    assert there.looked.count("pi-1") == 3
    assert there.happened(WaveOpened) == []
    assert decide.to_undo(there.journal.read()) == there.hosts


def test_where_the_budget_bears_it_it_goes_back_first_and_the_wave_goes_then(site) -> None:
    there = site(budgets={"failures": 1})
    there.bad = {"pi-1"}
    turn = there.wait()
    assert (turn.over, turn.undo) == (False, ["pi-1"])
    assert there.happened(WaveOpened) == []
    there.journal.append(HostUndone(at="t", host="pi-1", outcome=Outcome.REVERTED, reason="back"))
    assert there.wait().undo == []
    assert len(there.happened(WaveOpened)) == 1


def test_a_fall_that_was_journaled_before_a_run_was_cut_off_goes_back_before_the_next_wave(site) -> None:
    there = site(budgets={"failures": 1}, recheck={"hosts": 0})
    there.journal.append(HostFell(at="t", host="pi-1", reason="leak"))
    assert there.wait().undo == ["pi-1"]


def test_one_bad_look_is_no_fall_and_a_silent_host_no_word_against_the_release(site) -> None:
    there = site()
    there.bad, there.off = {"pi-0"}, {"pi-2"}
    count = there.look_at

    def once(host: str) -> Callable[[], Look]:
        look = count(host)
        return lambda: (look(), there.bad.clear())[0]

    there.look_at = once
    assert not there.wait().over
    [event] = there.happened(Rechecked)
    assert event.away == ["pi-2"]
    assert list(there.journal.read().away) == ["pi-2"]
    assert there.happened(HostFell) == []


def test_of_many_the_next_ones_in_turn_are_looked_at(site) -> None:
    there = site(confirmed=5, recheck={"hosts": 2})
    for expected in (["pi-0", "pi-1"], ["pi-2", "pi-3"], ["pi-0", "pi-4"]):
        there.looked.clear()
        there.wait()
        assert sorted(there.looked) == expected


def test_it_takes_no_longer_than_the_policy_says(site) -> None:
    there = site(recheck={"within_s": 2})
    release = time.monotonic() + 5
    slow = there.look_at

    def hangs(host: str) -> Callable[[], Look]:
        look = slow(host)
        return lambda: (time.sleep(max(0.0, min(0.4, release - time.monotonic()))), look())[1]

    there.look_at = hangs
    assert not there.wait().over
    assert 2 <= there.now < 3


def test_an_emergency_stop_is_heard_meanwhile(site) -> None:
    there = site(confirmed=100)
    requests.add(
        there.journal.folder,
        Request(kind=RequestKind.ABORT, rollout=there.journal.folder.name, by="ada", at="t"),
    )
    asked: list[float] = []

    def attend() -> None:
        if there.now >= 1:
            requests.take(there.journal, {})
            asked.append(there.now)

    assert there.wait(attend).over
    assert there.now - asked[0] < 0.5


def test_hosts_half_way_come_first(site) -> None:
    there = site()
    there.journal.append(HostStarted(at="t", host="last", before=OLD))
    assert not there.wait().over
    assert there.looked == []


@pytest.mark.parametrize("hosts", [1, 10, 200])
def test_how_long_it_takes_follows_from_how_many_are_looked_at(release: Release, site, hosts: int) -> None:
    there = site(confirmed=hosts)
    known = there.journal.read().hosts
    rounds = 0
    with Patrol(release, there.look_at, falls_after=3).on() as patrol:
        looks = Round(patrol, {host: known[host] for host in there.hosts})
        while not looks.over:
            looks.go_on(float(rounds), looks=LOOKS_PER_S // 10)
            time.sleep(0.01)
            rounds += 1
    # Ten rounds a second: 10 hosts cost half a second and 200 ten, and one more round reads the last answers.
    assert rounds * 0.1 <= hosts / LOOKS_PER_S + 0.6
    assert looks.seen
    assert looks.fallen == []


def test_whoever_is_next_comes_round_again() -> None:
    assert sample(list("abcde"), after=None, most=2) == ["a", "b"]
    assert sample(list("abcde"), after="d", most=3) == ["e", "a", "b"]
    assert sample(list("abc"), after="c", most=9) == ["a", "b", "c"]
    # Who was last has gone back since.
    assert sample(list("abc"), after="x", most=1) == ["a"]
    assert sample(list("abc"), after="a", most=0) == []
    assert sample(list(""), after=None, most=5) == []


def test_more_hosts_than_there_is_time_for_are_pointed_out() -> None:
    moment = datetime(2026, 11, 21, tzinfo=UTC)
    found = lint.findings(parse({"recheck": {"hosts": 1000}}, where="t"), moment)
    assert [(each.severity, each.key, each.next) for each in found] == [
        ("warning", "recheck", "within_s: 50, or more; or fewer hosts")
    ]
    assert lint.findings(parse({}, where="t"), moment) == []


def test_a_simulated_leak_is_found_between_waves_that_do_not_wait(release: Release) -> None:
    def simulated(**policy: object) -> Run:
        model = Model(unreachable=0)
        devices = synthetic(60, model, "1")
        rules = {"waves": [2, "10%", "50%", "100%"], "stratify": []} | policy
        made = plans.make([device.target for device in devices], parse(rules, where="t"), release)
        run = Run(made, devices, Flaw.parse("leak:60"), model=model, seed="1", keep=True)
        run.run()
        return run

    blind, seeing = simulated(recheck={"hosts": 0}), simulated()
    assert (blind.state.stopped, blind.state.harmed) == (None, 0)
    assert seeing.state.stopped is not None
    assert (seeing.stopped_in or 0) < len(seeing.state.plan.waves)
    assert len(seeing.served) < len(blind.served)
