"""A site whose hosts are not all there spares fewer of them: a batch does not take it below what is to be available."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hedgerow.rollout import batches, lease, report, spare
from hedgerow.rollout import plan as plans
from hedgerow.rollout.events import (
    Event,
    HostFell,
    HostFinished,
    HostPrepared,
    HostResolved,
    HostStarted,
    Opened,
    Outcome,
    Rechecked,
    Resumed,
    State,
    Surveyed,
    WaveOpened,
    replay,
)
from hedgerow.rollout.gate.samples import Look
from hedgerow.rollout.hostline import Clock
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.patrol import Patrol
from hedgerow.rollout.plan import Placement, Plan, Release
from hedgerow.rollout.policy import parse
from hedgerow.rollout.simulate.flaw import Flaw
from hedgerow.rollout.simulate.fleet import Model, synthetic
from hedgerow.rollout.simulate.run import Run
from hedgerow.rollout.waiting import await_wave

ORCHARD, BARN = ["o1", "o2", "o3", "o4"], ["b1", "b2"]


def planned(release: Release, **policy: object) -> Plan:
    """Four hosts of one site and two of another; of each one is to be available."""
    parsed = parse({"budgets": {"failures": 9}, "recheck": {"hosts": 0}} | policy, where="test")
    site_of = dict.fromkeys(ORCHARD, "orchard") | dict.fromkeys(BARN, "barn")
    return Plan(
        release=release,
        policy=parsed,
        waves=[["o1"], ["o2", "o3", "o4", "b1"], ["b2"]],
        placements={host: Placement(site=site) for host, site in site_of.items()},
        sites=batches.budgets(site_of.values(), parsed.sites),
    )


@pytest.fixture
def state(release: Release):
    def make(*events: Event, **policy: object) -> State:
        made = replay([Opened(at="t", plan=planned(release, **policy), by="ada"), *events])
        assert made is not None
        return made

    return make


def ended(host: str, outcome: Outcome) -> list[Event]:
    return [
        HostStarted(at="t", host=host, before="assistant@1.0.0"),
        HostFinished(at="t", host=host, outcome=outcome, reason="so"),
    ]


def test_a_site_that_is_all_there_spares_what_was_planned(state) -> None:
    assert spare.passed_over(state(*ended("o1", Outcome.CONFIRMED)), ["o2", "o3", "o4", "b1"]) == {}
    # Who went back, was refused or was passed over serves the version before.
    for outcome in (Outcome.REVERTED, Outcome.REFUSED, Outcome.SKIPPED, Outcome.ENVIRONMENT, Outcome.UNDONE):
        assert spare.passed_over(state(*ended("o1", outcome)), ["o2", "o3", "o4", "b1"]) == {}, outcome


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.KEPT, Outcome.UNREACHABLE])
def test_one_that_may_serve_nobody_counts_against_it(state, outcome: Outcome) -> None:
    found = spare.passed_over(state(*ended("o1", outcome)), ["o2", "o3", "o4", "b1"])
    # One is to be available and one may not be: of the three, two have their turn. The other site has its own.
    assert found == {
        "o4": f"site_budget: of 4 host(s) of orchard 1 are to be available, and 1 may not be: o1 ({outcome})"
    }


def test_a_host_that_got_worse_or_fell_silent_counts_until_it_is_back(state) -> None:
    fell = state(*ended("o1", Outcome.CONFIRMED), HostFell(at="t", host="o1", reason="leak"))
    assert list(spare.passed_over(fell, ["o2", "o3", "o4"])) == ["o4"]
    silent = state(*ended("o1", Outcome.CONFIRMED), Rechecked(at="t", hosts=1, last="o1", away=["o1"]))
    assert list(spare.passed_over(silent, ["o2", "o3", "o4"])) == ["o4"]
    silent.apply(Rechecked(at="t", hosts=1, last="o1", back=["o1"]))
    assert spare.passed_over(silent, ["o2", "o3", "o4"]) == {}
    lost = state(*ended("o1", Outcome.LOST))
    lost.apply(HostResolved(at="t", host="o1", outcome=Outcome.REVERTED, reason="back"))
    assert spare.passed_over(lost, ["o2", "o3", "o4"]) == {}


def test_who_was_silent_before_the_first_wave_counts_until_its_preflight_has_seen_it(state) -> None:
    off = state(Surveyed(at="t", known=5, silent=["o3"]), *ended("o1", Outcome.CONFIRMED))
    assert list(spare.passed_over(off, ["o2", "o4", "b1"])) == []
    assert list(spare.passed_over(off, ["o2", "o4", "o1"])) == []
    assert list(spare.passed_over(state(Surveyed(at="t", known=4, silent=["b2"])), ["o1", "b1"])) == ["b1"]
    off.apply(HostPrepared(at="t", host="o3", before=None))
    assert off.away == {}


def test_of_a_batchs_sites_those_are_looked_at_that_may_serve_nobody(state) -> None:
    known = state(
        *ended("o1", Outcome.LOST), *ended("o2", Outcome.REFUSED), *ended("b1", Outcome.UNREACHABLE), budgets={}
    )
    assert spare.doubtful(known, ["o3"]) == ["o1", "o2"]
    assert spare.doubtful(known, ["b2"]) == ["b1"]
    assert spare.doubtful(known, ["b1", "b2"]) == []


def test_the_last_host_of_a_site_that_serves_is_left_alone(state) -> None:
    assert list(spare.passed_over(state(*ended("b1", Outcome.LOST)), ["b2"])) == ["b2"]
    # Also where the site is too small for what the policy asks, and would go one by one.
    assert list(spare.passed_over(state(*ended("b1", Outcome.LOST), sites={"min_available": 3}), ["b2"])) == ["b2"]


def test_who_has_begun_is_never_held_up_and_hosts_without_a_site_are_nobodys(state, release: Release) -> None:
    begun = state(*ended("b1", Outcome.LOST), HostStarted(at="t", host="b2", before=None))
    assert spare.passed_over(begun, ["b2"]) == {}
    bare = replay([Opened(at="t", plan=Plan(release=release, policy=parse({}, where="t"), waves=[["a"]]), by="ada")])
    assert bare is not None
    assert spare.passed_over(bare, ["a"]) == {}


def test_many_that_are_missing_are_named_in_part(state) -> None:
    events = [each for host in ORCHARD[:3] for each in ended(host, Outcome.UNREACHABLE)]
    [reason] = spare.passed_over(state(*events), ["o4"]).values()
    assert "3 may not be: o1 (unreachable), o2 (unreachable), o3 (unreachable)" in reason


def test_no_later_wave_takes_the_place_of_a_first_one_that_nobody_may_be_in(state) -> None:
    off = state(Surveyed(at="t", known=5, silent=["b1"]))
    passed = spare.passed_over(off, ["b2"])
    halt = spare.nobody_first(off, ["b2"], passed)
    assert (halt or "").startswith("no host may be the first: site_budget: of 2 host(s) of barn 1 are to be available")
    assert spare.nobody_first(off, ["b2", "o1"], passed) is None
    assert spare.nobody_first(off, ["o1"], {}) is None
    tried = state(Surveyed(at="t", known=5, silent=["b1"]), *ended("o1", Outcome.CONFIRMED))
    assert spare.nobody_first(tried, ["b2"], spare.passed_over(tried, ["b2"])) is None


# -- where it is asked ----------------------------------------------------------------------


def test_a_look_before_the_batch_sees_who_is_back_and_who_is_failing(folder: Path, release: Release) -> None:
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="ada", since="now")
    journal = Journal(folder)
    journal.append(Opened(at="t", plan=planned(release, recheck={"hosts": 50}), by="ada"))
    # One that was off is well again; one that was refused is failing by now.
    for event in (*ended("b1", Outcome.UNREACHABLE), *ended("o1", Outcome.REFUSED)):
        journal.append(event)

    def look_at(host: str) -> Callable[[], Look]:
        status = "failing" if host == "o1" else "ok"
        return lambda: Look(at=0, reached=True, status=status, version="assistant@1.0.0", sha256="01" * 32)

    clock = Clock(sleep=lambda _: time.sleep(0.01), now=lambda: datetime(2026, 11, 21, tzinfo=UTC))
    patrol = Patrol(release, look_at, falls_after=3)
    await_wave(journal, ["o2", "o3", "o4", "b2"], patrol, lambda: None, lambda _: None, clock)
    [rechecked] = [event for event in journal.events() if isinstance(event, Rechecked)]
    assert (rechecked.away, rechecked.back, rechecked.last) == (["o1"], ["b1"], None)
    assert journal.events()[-1].hosts == ["o2", "o3", "b2"]


@pytest.fixture
def waits(folder: Path, release: Release) -> Callable[..., Journal]:
    """The wait before a batch, over a journal in which ``o1`` was lost."""
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="ada", since="now")

    def wait(*hosts: str) -> Journal:
        journal = Journal(folder)
        if journal.state() is None:
            for event in (Opened(at="t", plan=planned(release), by="ada"), *ended("o1", Outcome.LOST)):
                journal.append(event)
        patrol = Patrol(release, lambda _: lambda: Look(at=0, reached=False), falls_after=3)
        now = datetime(2026, 11, 21, tzinfo=UTC)
        turn = await_wave(journal, hosts, patrol, lambda: None, lambda _: None, Clock(now=lambda: now))
        assert not turn.over
        return journal

    return wait


def test_before_a_batch_who_cannot_be_spared_is_passed_over_and_the_others_go(waits) -> None:
    journal = waits("o2", "o3", "o4", "b1")
    *_, finished, opened = journal.events()
    assert (finished.host, finished.outcome) == ("o4", Outcome.SKIPPED)
    assert opened == WaveOpened(at=opened.at, number=2, hosts=["o2", "o3", "b1"])
    assert journal.read().stopped is None
    # Asked again, as after a kill between the two lines, it says the same.
    assert waits("o2", "o3", "o4", "b1").events()[-1].hosts == ["o2", "o3", "b1"]


def test_a_rollout_whose_first_host_its_site_needs_stops_before_it_begins(folder: Path, release: Release) -> None:
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="ada", since="now")
    journal = Journal(folder)
    journal.append(Opened(at="t", plan=planned(release), by="ada"))
    journal.append(Surveyed(at="t", known=4, silent=["b1"]))
    patrol = Patrol(release, lambda _: lambda: Look(at=0, reached=False), falls_after=3)
    turn = await_wave(journal, ["b2"], patrol, lambda: None, lambda _: None)
    assert turn.over
    state = journal.read()
    assert (state.undo, state.hosts["b2"].outcome) == (False, None)
    assert "b1 (silent)" in str(state.stopped)


def test_a_run_that_goes_on_takes_them_when_the_site_is_whole_again(waits) -> None:
    journal = waits("o2", "o3", "o4", "b1")
    for host in ("o2", "o3", "b1"):
        for event in ended(host, Outcome.CONFIRMED):
            journal.append(event)
    journal.append(HostResolved(at="t", host="o1", outcome=Outcome.REVERTED, reason="back"))
    journal.append(Resumed(at="t", plan=journal.read().plan, by="ada"))
    assert waits("o4").events()[-1].hosts == ["o4"]
    assert "site_budget" not in "".join(report.summary(journal.read()))


def test_a_simulated_fleet_keeps_its_sites_served(release: Release) -> None:
    model = Model(hosts_per_site=3, unreachable=0.3)
    policy = parse({"sites": {"min_available": 1}, "waves": ["50%", "100%"]}, where="test")
    devices = synthetic(60, model, "2")
    made = plans.make([device.target for device in devices], policy, release)
    run = Run(made, devices, Flaw.parse("good"), model=model, seed="2", keep=True)
    result = run.run()
    assert result.counts["skipped"] > 0
    assert result.stopped is None
    assert result.forgotten == []
    passed = [host for host in run.state.hosts.values() if host.outcome is Outcome.SKIPPED]
    assert all(host.reason.startswith("site_budget: of 3 host(s)") for host in passed)
