"""The wait before a wave: what ends it, what it says, and what it sees meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hedgerow.rollout import decide, lease, requests
from hedgerow.rollout.events import (
    HostFell,
    HostFinished,
    HostStarted,
    HostUndone,
    Opened,
    Outcome,
    Request,
    RequestKind,
    Waiting,
    WaveOpened,
)
from hedgerow.rollout.gate.samples import Look
from hedgerow.rollout.hostline import Clock
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.patrol import LOOKERS, Patrol
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import parse
from hedgerow.rollout.waiting import Turn, await_wave

OLD = "assistant@1.0.0"


class Site:
    """A rollout whose first wave is through, and a clock whose seconds are short."""

    def __init__(self, folder: Path, release: Release, **policy: object) -> None:
        self.journal = Journal(folder)
        self.release = release
        # Looks before a wave have tests of their own.
        parsed = parse({"recheck": {"hosts": 0}} | policy, where="test")
        plan = Plan(release=release, policy=parsed, waves=[["a", "b"], ["c"]])
        self.journal.append(Opened(at="t0", plan=plan, by="ada"))
        for host in "ab":
            self.journal.append(HostStarted(at="t", host=host, before=OLD, baseline=["hot"]))
            self.journal.append(HostFinished(at="t", host=host, outcome=Outcome.CONFIRMED, reason="well"))
        self.journal.append(WaveOpened(at="t", number=1, hosts=["a", "b"]))
        self.said: list[str] = []
        self.looks: dict[str, Look] = {}
        self.looked: list[str] = []
        self.seconds = 0
        self.then: dict[int, Callable[[], object]] = {}

    def look_at(self, host: str) -> Callable[[], Look]:
        def look() -> Look:
            self.looked.append(host)
            return self.looks.get(host) or self.seen("ok")

        return look

    def seen(self, status: str, *reasons: str, version: str | None = None) -> Look:
        served = version or self.release.bundle
        return Look(
            at=0, reached=True, status=status, version=served, sha256=self.release.sha256, reasons=frozenset(reasons)
        )

    def ask(self, kind: RequestKind, **fields: object) -> None:
        made = {"kind": kind, "rollout": self.journal.folder.name, "by": "ada", "at": "t"} | fields
        requests.add(self.journal.folder, Request(**made))  # type: ignore[arg-type]

    def sleep(self, _: float) -> None:
        """A second passes: threads get the time to look."""
        time.sleep(0.02)
        self.seconds += 1
        assert self.seconds < 500, "it waits for ever"
        self.then.get(self.seconds, lambda: None)()

    def wait(self) -> Turn:
        start = datetime(2026, 11, 21, 12, tzinfo=UTC)
        clock = Clock(sleep=self.sleep, now=lambda: start + timedelta(seconds=self.seconds))
        patrol = Patrol(self.release, self.look_at, falls_after=3)
        return await_wave(self.journal, ["c"], patrol, lambda: requests.take(self.journal, {}), self.said.append, clock)


@pytest.fixture
def site(folder: Path, release: Release) -> Callable[..., Site]:
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="ada", since="now")
    return lambda **policy: Site(folder, release, **policy)


def test_nothing_to_wait_for(site) -> None:
    there = site()
    turn = there.wait()
    assert (turn.over, turn.wave, there.seconds, there.said) == (False, 2, 0, [])
    assert there.journal.events()[-1] == WaveOpened(at="2026-11-21T12:00:00.000Z", number=2, hosts=["c"])


def test_a_pause_ends_when_it_is_resumed_and_is_said_once(site) -> None:
    there = site()
    there.ask(RequestKind.PAUSE, reason="lunch")
    there.then[5] = lambda: there.ask(RequestKind.RESUME)
    assert not there.wait().over
    assert there.seconds == 5
    assert there.said == ["waiting, paused: paused by ada: lunch; next: hedgerow rollout resume"]
    assert sum(isinstance(event, Waiting) for event in there.journal.events()) == 1


def test_an_approval_without_a_signature_where_the_policy_wants_none(site) -> None:
    there = site(approvals=[{"before_wave": 2, "by": ["ada"], "unsigned": True}])
    there.then[3] = lambda: there.ask(RequestKind.APPROVE, by="mallory")
    there.then[6] = lambda: there.ask(RequestKind.APPROVE)
    assert not there.wait().over
    assert there.seconds == 6
    assert "wave 2 needs 1 approval(s)" in there.said[0]


@pytest.mark.parametrize("kind", [RequestKind.ABORT, RequestKind.ROLLBACK, RequestKind.SUPERSEDE])
def test_what_ends_a_rollout_ends_its_wait_within_a_second(site, kind: RequestKind) -> None:
    there = site()
    there.ask(RequestKind.PAUSE)
    there.then[4] = lambda: there.ask(kind, bundle="assistant@1.2.0")
    assert there.wait().over
    assert there.seconds == 4
    assert decide.to_undo(there.journal.read()) == ([] if kind is RequestKind.SUPERSEDE else ["a", "b"])


def test_a_breach_in_a_pause_stops_the_rollout_and_takes_all_back(site) -> None:
    there = site()
    there.ask(RequestKind.PAUSE)
    there.then[10] = lambda: there.looks.update(b=there.seen("degraded", "slow_answers"))
    turn = there.wait()
    assert turn.over
    assert turn.msg == "stopped: 1 host(s) failed and the rollout may cost 0"
    assert decide.to_undo(there.journal.read()) == ["a", "b"]
    [fell] = [event for event in there.journal.events() if isinstance(event, HostFell)]
    assert (fell.host, fell.reason) == ("b", "degraded since the release: slow_answers")


@pytest.mark.parametrize(
    "look",
    [
        Look(at=0, reached=False, note="no route"),
        Look(at=0, reached=True, status="ok", version=OLD, sha256="01" * 32),
        Look(at=0, reached=True, note="no report"),
    ],
)
def test_who_reboots_or_was_changed_by_somebody_is_no_word_against_the_release(site, look: Look) -> None:
    there = site()
    there.looks["b"] = look
    there.ask(RequestKind.PAUSE)
    there.then[40] = lambda: there.ask(RequestKind.RESUME)
    assert not there.wait().over
    assert there.looked.count("b") > 5


def test_what_stood_before_and_one_bad_look_are_none_either(site) -> None:
    there = site()
    there.looks["a"] = there.seen("degraded", "hot")
    there.ask(RequestKind.PAUSE)
    there.then[10] = lambda: there.looks.update(b=there.seen("failing", "requests_fail"))
    there.then[12] = there.looks.clear
    there.then[40] = lambda: there.ask(RequestKind.RESUME)
    assert not there.wait().over


def test_a_host_that_hangs_holds_up_nobody(site, release: Release) -> None:
    hosts = [f"pi-{number}" for number in range(LOOKERS + 5)]
    looked: list[str] = []
    there = site()

    def look_at(host: str) -> Callable[[], Look]:
        return lambda: (time.sleep(0.5 if host == "pi-0" else 0), looked.append(host), there.seen("ok"))[2]

    watched = {host: there.journal.read().hosts["a"] for host in hosts}
    with Patrol(release, look_at, falls_after=3).on() as patrol:
        for _ in range(12):
            assert patrol.fallen(watched) == []
            time.sleep(0.02)
        assert set(looked) >= set(hosts[1:])
        assert "pi-0" not in looked


def test_a_host_that_the_budget_bears_goes_back_at_once_and_the_wait_goes_on(site) -> None:
    there = site(budgets={"failures": 1})
    there.ask(RequestKind.PAUSE)
    there.looks["b"] = there.seen("failing", "requests_fail")
    turn = there.wait()
    assert (turn.over, turn.undo) == (False, ["b"])
    assert decide.to_undo(there.journal.read()) == ["b"]
    there.journal.append(HostUndone(at="t", host="b", outcome=Outcome.REVERTED, reason="back"))
    there.ask(RequestKind.RESUME)
    again = there.wait()
    assert (again.over, again.undo) == (False, [])
