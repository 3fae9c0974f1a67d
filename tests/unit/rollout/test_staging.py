"""A release is fetched ahead of all turns, or in a host's own: inside of the download windows, and never twice."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import msgspec
import pytest

from hedgerow.errors import NetworkError
from hedgerow.rollout import ahead, decide, lease, report, requests
from hedgerow.rollout.decide import Finish, Go, Stop, Wait, WaitCode
from hedgerow.rollout.events import (
    HostFinished,
    HostStaged,
    HostStarted,
    Opened,
    Outcome,
    Request,
    RequestKind,
    Resumed,
    Stopped,
    WaveOpened,
)
from hedgerow.rollout.gate.samples import Look
from hedgerow.rollout.hostline import Clock
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.patrol import Patrol
from hedgerow.rollout.plan import Placement, Plan, Release
from hedgerow.rollout.policy import parse
from hedgerow.rollout.remote import Completed
from hedgerow.rollout.staging import HostStaging
from hedgerow.rollout.waiting import Turn, await_staging

NIGHT, NOON = datetime(2026, 11, 21, 2, tzinfo=UTC), datetime(2026, 11, 21, 12, tzinfo=UTC)
WINDOW = {"windows": {"download": [{"from": "01:00", "to": "05:00"}]}}


class Site:
    """Hosts ``a`` to ``e`` of two sites, the clock, and devices that fetch."""

    def __init__(self, folder: Path, release: Release, **policy: object) -> None:
        self.journal = Journal(folder)
        self.release = release
        sites = {host: Placement(site="barn" if host == "e" else "orchard") for host in "abcde"}
        parsed = parse({"retry": {"attempts": 2}} | policy, where="test")
        plan = Plan(release=release, policy=parsed, waves=[["a"], ["b", "c", "d", "e"]], placements=sites)
        self.journal.append(Opened(at="t", plan=plan, by="ada"))
        self.now = NIGHT
        self.calls: list[str] = []
        self.whole: set[str] = set()
        self.broken: dict[str, str] = {}

    def steps(self, host: str) -> HostStaging:
        return HostStaging(host, self.journal, partial(self.device, host), self.clock())

    def clock(self) -> Clock:
        def sleep(seconds: float) -> None:
            self.now += timedelta(seconds=max(seconds, 60))

        return Clock(monotonic=lambda: 0.0, sleep=sleep, now=lambda: self.now)

    def device(self, host: str, words: Sequence[str], *, timeout_s: int) -> Completed:
        self.calls.append(f"{host}: {' '.join(words)}")
        if "--here" in words:
            if host in self.whole:
                return Completed(0, json.dumps({"changed": False}), "")
            return Completed(1, "", json.dumps({"error": "DeviceError", "what": "not whole", "where": "x"}))
        if host in self.broken:
            if self.broken[host] == "NetworkError":
                raise NetworkError("no route to host")
            return Completed(1, "", json.dumps({"error": self.broken[host], "what": "disk full", "where": "x"}))
        self.whole.add(host)
        return Completed(0, json.dumps({"changed": True, "new_bytes": 7}), "")

    def wait(self, *hosts: str) -> Turn:
        patrol = Patrol(self.release, lambda _: lambda: Look(at=0, reached=False), falls_after=3)
        attend = partial(requests.take, self.journal, {})
        return await_staging(self.journal, hosts, patrol, attend, lambda _: None, self.clock())

    def ask(self, kind: RequestKind) -> None:
        requests.add(self.journal.folder, Request(kind=kind, rollout=self.journal.folder.name, by="ada", at="t"))


@pytest.fixture
def site(folder: Path, release: Release):
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="ada", since="now")
    return lambda **policy: Site(folder, release, **policy)


# -- ahead of all turns ---------------------------------------------------------------------


def test_who_is_staged_ahead_is_journaled_and_nothing_else_changes(site) -> None:
    there = site(**WINDOW)
    step = there.steps("a").stage_ahead()
    assert (step.changed, step.go, step.failed) == (True, True, False)
    [_, staged] = there.journal.events()
    assert (type(staged), staged.host, staged.new_bytes) == (HostStaged, "a", 7)
    assert there.calls == [f"a: stage {there.release.bundle} --json"]


def test_a_host_is_told_which_variant_the_plan_has_for_it(folder: Path, release: Release) -> None:
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="ada", since="now")
    there = Site(folder, msgspec.structs.replace(release, builds=["0a" * 32, "0b" * 32]))
    plan = there.journal.read().plan
    places = plan.placements | {"b": Placement(variant="hailo", site="orchard")}
    there.journal.append(Resumed(at="t", plan=msgspec.structs.replace(plan, placements=places), by="ada"))
    there.steps("b").stage_ahead()
    assert there.steps("b")._is_there()
    reference = there.release.bundle
    assert there.calls == [
        f"b: stage {reference} --variant hailo --json",
        f"b: stage {reference} --variant hailo --here --json",
    ]


def test_of_a_site_only_so_many_fetch_at_one_time_in_the_order_of_their_turns(site) -> None:
    there = site(sites={"downloads": 2})
    assert ahead.visits(there.journal.read()) == (["a", "b", "e", "c", "d"], [3, 2])
    plan = there.journal.read().plan
    one = msgspec.structs.replace(plan, policy=parse({"sites": {"downloads": 1}}, where="test"))
    there.journal.append(Resumed(at="t", plan=one, by="ada"))
    assert ahead.visits(there.journal.read()) == (["a", "e", "b", "c", "d"], [2, 1, 1, 1])


def test_a_run_that_was_cut_off_goes_on_with_those_that_lack_it(site) -> None:
    there = site()
    for host in ("a", "b"):
        there.steps(host).stage_ahead()
    there.journal.append(HostFinished(at="t", host="c", outcome=Outcome.ALREADY, reason="x"))
    state = there.journal.read()
    assert ahead.visits(state)[0] == ["d", "e"]
    assert ahead.staged(state) == 2
    assert there.steps("a").stage_ahead().msg == "has it already"
    assert len(there.calls) == 2


@pytest.mark.parametrize("error", ["DeviceError", "NetworkError"])
def test_who_cannot_be_staged_ahead_is_left_as_it_is_and_the_release_is_not_blamed(site, error: str) -> None:
    there = site()
    there.broken["a"] = error
    step = there.steps("a").stage_ahead()
    assert (step.failed, step.go) == (False, False)
    assert "its turn tries again" in step.msg
    state = there.journal.read()
    assert (state.hosts["a"].outcome, state.stopped, state.tally().failed) == (None, None, 0)


def test_a_window_that_shuts_meanwhile_leaves_the_rest_to_their_turns(site) -> None:
    there = site(**WINDOW)
    there.now = NOON
    step = there.steps("a").stage_ahead()
    assert (step.go, there.calls) == (False, [])
    assert "not staged now: outside of the download windows" in step.msg
    assert there.journal.read().hosts["a"].outcome is None


def test_it_waits_for_the_window_and_for_nothing_else(site) -> None:
    there = site(**WINDOW, approvals=[{"before_wave": 1, "by": ["ada"]}])
    there.now = NOON
    assert there.wait("a", "b").msg == "2 host(s) fetch"
    assert there.now == datetime(2026, 11, 22, 1, tzinfo=UTC)
    assert not any(isinstance(event, WaveOpened) for event in there.journal.events())
    assert there.journal.read().wave == 0


def test_a_stop_meanwhile_ends_it(site) -> None:
    there = site(**WINDOW)
    there.now = NOON
    there.ask(RequestKind.ABORT)
    assert there.wait("a").over
    assert there.calls == []


def test_what_decides_about_it(site) -> None:
    there = site(**WINDOW, freeze=[{"from": "2026-11-23", "to": "2026-11-24", "reason": "fair"}])
    state = there.journal.read()
    assert decide.may_stage_ahead(state, ["a"], NIGHT) == Go(0)
    shut = decide.may_stage_ahead(state, ["a"], NOON)
    assert isinstance(shut, Wait)
    assert shut.code is WaitCode.WINDOW
    frozen = decide.may_stage_ahead(state, ["a"], NIGHT + timedelta(days=2))
    assert isinstance(frozen, Wait)
    assert (frozen.code, "fair" in frozen.reason) == (WaitCode.FREEZE, True)
    there.journal.append(HostStaged(at="t", host="a", seconds=1.0))
    there.journal.append(HostStarted(at="t", host="b", before=None))
    assert decide.may_stage_ahead(there.journal.read(), ["a", "b"], NOON) == Finish()
    there.ask(RequestKind.PAUSE)
    requests.take(there.journal, {})
    paused = decide.may_stage_ahead(there.journal.read(), ["c"], NIGHT)
    assert isinstance(paused, Wait)
    assert paused.code is WaitCode.PAUSED
    there.journal.append(Stopped(at="t", reason="smoke"))
    assert isinstance(decide.may_stage_ahead(there.journal.read(), ["c"], NIGHT), Stop)


def test_status_says_how_many_are_staged_and_what_to_type(site) -> None:
    there = site()
    for host in "abc":
        there.steps(host).stage_ahead()
    said = "\n".join(report.summary(there.journal.read()))
    assert "staged ahead of their turn: 3 of 5 host(s)" in said
    assert "next: release it: hedgerow rollout resume" in said


# -- in a turn ------------------------------------------------------------------------------


def test_a_turn_of_a_staged_host_verifies_it_and_fetches_nothing(site) -> None:
    there = site(**WINDOW)
    there.steps("a").stage_ahead()
    there.now = NOON
    there.calls.clear()
    step = there.steps("a").stage()
    assert (step.go, step.changed) == (True, False)
    assert there.calls == [f"a: stage {there.release.bundle} --here --json"]
    assert sum(isinstance(event, HostStaged) for event in there.journal.events()) == 1


def test_no_registry_is_needed_for_what_is_there(site) -> None:
    there = site()
    there.steps("a").stage_ahead()
    there.broken["a"] = "NetworkError"
    assert there.steps("a").stage().go
    assert there.journal.read().stopped is None


def test_what_is_not_whole_any_more_is_fetched_again_inside_of_the_window_and_not_outside(site) -> None:
    there = site(**WINDOW)
    there.steps("a").stage_ahead()
    there.whole.clear()
    assert there.steps("a").stage().changed
    there.whole.clear()
    there.now = NOON
    step = there.steps("a").stage()
    assert step.msg.startswith("skipped: window: outside of the download windows")
    assert there.journal.read().hosts["a"].outcome is Outcome.SKIPPED
    assert there.journal.read().stopped is None


def test_a_turn_whose_window_has_shut_since_it_began_fetches_nothing(site) -> None:
    there = site(**WINDOW)
    there.now = NOON
    step = there.steps("a").stage()
    assert (step.go, there.calls) == (False, [])
    assert there.journal.read().hosts["a"].outcome is Outcome.SKIPPED


def test_a_release_that_is_no_model_is_brought_and_staged_once(site, release: Release) -> None:
    site_ = site()
    plan = site_.journal.read().plan
    other = msgspec.structs.replace(plan, release=msgspec.structs.replace(release, kind="runtime"))
    folder = site_.journal.folder.with_name("other")
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="ada", since="now")
    site_.journal = Journal(folder)
    site_.journal.append(Opened(at="t", plan=other, by="ada"))
    brought: list[str] = []

    def deliver(change: str, *, timeout_s: int) -> dict[str, object]:
        brought.append(change)
        site_.whole.add("a")
        return {"changed": True, "new_bytes": 7}

    steps = HostStaging("a", site_.journal, partial(site_.device, "a"), site_.clock(), deliver)
    assert steps.stage_ahead().changed
    assert not steps.stage().changed
    assert (brought, site_.calls) == ([release.bundle], [f"a: stage {release.bundle} --here --json"])
