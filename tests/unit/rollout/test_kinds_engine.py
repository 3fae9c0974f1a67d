"""The engine over devices in memory with a release that is no model: drained before, undrained always, cut anywhere.

A device keeps ``hedgerow-device``'s promises: it restarts with what it is told, a restarted server is not drained, a
drain ends by its own limit, and what nobody confirms goes back by its deadline.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rollout_killing import Killed, Moments, killable_journal

from hedgerow.errors import NetworkError
from hedgerow.rollout import decide, requests, store
from hedgerow.rollout.events import Request, RequestKind, State
from hedgerow.rollout.gate.samples import Answer, Kind, Look
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.patrol import Patrol
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy, Retry, Rollback, Soak
from hedgerow.rollout.remote import Completed
from hedgerow.rollout.steps import HostSteps, Step
from hedgerow.rollout.survey import survey
from hedgerow.rollout.waiting import await_wave

pytestmark = pytest.mark.usefixtures("errands_in_place")

MODEL, SHA256 = "assistant@1.0.0", "01" * 32
HOSTS = ("a", "b", "c", "d")
WAVES = [["a"], ["b", "c"], ["d"]]
DEADLINE_S = 60
ACTIVATE_S = 100
# Kind → the old version everywhere, and each host's new one.
OLD = "0.1.0+old"
NEW: dict[str, dict[str, str]] = {
    "runtime": dict.fromkeys(HOSTS, "0.1.0+new"),
    "configuration": {host: f"new-of-{host}" for host in HOSTS},
}


@dataclass(kw_only=True)
class World(Moments):
    kind: str
    devices: dict[str, Board] = field(default_factory=dict)


@dataclass
class Board:
    world: World
    name: str
    runs: str = OLD
    previous: str | None = None
    pending: tuple[str, str | None, float] | None = None
    staged: set[str] = field(default_factory=set)
    drained_until: float | None = None
    model: str | None = MODEL
    bad: bool = False
    busy: bool = False
    tells: bool = True
    broken: bool = False
    off_at_activation: bool = False
    off_until: float = -1.0
    cut: int = 0
    """Restarts by a command of the rollout's while requests were taken."""

    def __call__(self, arguments: Sequence[str], *, timeout_s: int) -> Completed:
        self.world.point()
        answer = self.act(arguments)
        self.world.point()
        return answer

    def deliver(self, change: str, *, timeout_s: int) -> dict[str, Any]:
        self.world.point()
        if self.world.now < self.off_until:
            raise NetworkError("no route to host")
        changed = change not in self.staged
        self.staged.add(change)
        return {"changed": changed, "new_bytes": 7}

    def act(self, arguments: Sequence[str]) -> Completed:
        self.tick()
        if self.world.now < self.off_until:
            raise NetworkError("no route to host")
        verb, *rest = [word for word in arguments if word != "--json"]
        if verb == "report":
            return Completed(0, json.dumps(self.report()), "")
        try:
            changed = getattr(self, f"do_{verb}")(*rest)
        except RuntimeError as error:
            said = {"error": "DeviceError", "what": str(error), "where": "x", "next": None}
            return Completed(1, "", json.dumps(said))
        if verb == "activate" and self.off_at_activation:
            self.off_until, self.off_at_activation = self.world.now + 100_000, False
            raise NetworkError("broken pipe")
        return Completed(0, json.dumps({"changed": changed, "load_s": 2.0}), "")

    def tick(self) -> None:
        if self.drained_until is not None and self.world.now >= self.drained_until:
            self.drained_until = None
        if self.pending is not None and self.world.now >= self.pending[2]:
            self.back()
            self.drained_until = None  # by a restart, as all else

    def restart(self) -> None:
        self.cut += self.drained_until is None
        self.drained_until = None

    def back(self) -> None:
        if self.pending is not None:
            self.runs, self.previous = self.pending[:2]
            self.pending = None
        else:
            assert self.previous is not None, "a revert with nothing before"
            self.runs, self.previous = self.previous, None

    def do_stage(self, change: str, *words: str) -> bool:
        assert words == ("--here",), "no device fetches a runtime or a configuration"
        if change not in self.staged:
            raise RuntimeError(f"{change} is not whole on this device")
        return False

    def do_drain(self, *words: str) -> bool:
        within_s, wait_s = int(words[words.index("--within") + 1]), int(words[words.index("--wait") + 1])
        assert wait_s < within_s <= 3600, "the server's own bound"
        changed = self.drained_until is None
        self.drained_until = self.world.now + within_s
        if self.busy:
            raise RuntimeError("3 requests still run")
        return changed

    def do_undrain(self) -> bool:
        changed, self.drained_until = self.drained_until is not None, None
        return changed

    def do_activate(self, change: str, *_: str) -> bool:
        assert change in self.staged, "activated before it was staged"
        kind, _, version = change.partition(":")
        assert (kind, version) == (self.world.kind, NEW[kind][self.name])
        if self.runs == version:
            return False
        assert self.pending is None
        self.restart()
        if self.broken:
            raise RuntimeError("the server did not start: Job failed")
        self.pending = (self.runs, self.previous, self.world.now + DEADLINE_S)
        self.previous, self.runs = self.runs, version
        return True

    def do_confirm(self, change: str) -> bool:
        assert change == f"{self.world.kind}:{self.runs}"
        changed, self.pending = self.pending is not None, None
        return changed

    def do_revert(self, *words: str) -> bool:
        assert words[:2] == ("--kind", self.world.kind), "it could take back a model"
        self.restart()
        self.back()
        return True

    def report(self) -> dict[str, Any]:
        self.tick()
        name, _, version = (self.model or "").partition("@")
        drained = self.drained_until is not None
        return {
            "status": "degraded" if drained else "ok",
            "model": {"name": name, "version": version, "sha256": SHA256} if self.model else None,
            "reasons": [{"code": "draining", "severity": "warning"}] if drained else [],
            "board": {"disk_free_mb": 5000.0},
            "pending": {"confirm_deadline": "later"} if self.pending else None,
            self.world.kind: self.runs if self.tells else None,
        }

    def look(self) -> Look:
        report = self.report()
        if self.world.now < self.off_until:
            return Look(at=self.world.now, reached=False, note="no route to host")
        failing = self.bad and self.runs == NEW[self.world.kind][self.name]
        return Look(
            at=self.world.now,
            reached=True,
            status="failing" if failing else report["status"],
            version=self.model,
            sha256=SHA256 if self.model else None,
            reasons=frozenset({"requests_fail"} if failing else {each["code"] for each in report["reasons"]}),
            runtime=report.get("runtime"),
            configuration=report.get("configuration"),
        )

    def probe(self, release: Release, number: int, *, timeout_s: float = 30, weigh: bool = False) -> Answer:
        assert release.name == "assistant", "asked a model that nobody has"
        kind = Kind.RIGHT if self.drained_until is None else Kind.ERROR
        return Answer(at=self.world.now, question=number, kind=kind, latency_ms=20.0)


@dataclass
class Run:
    """A rollout in the order of playbooks/rollout.yml, as the linear strategy walks it."""

    world: World
    folder: Path
    plan: Plan

    def go(self) -> State:
        journal = store.begin(self.folder, self.plan, pid=os.getpid(), now=self.world.clock().now())

        def look(host: str) -> Callable[[], Look]:
            return self.world.devices[host].look

        survey(journal, look, lambda _: None, lambda _: None, self.world.clock())
        patrol = Patrol(self.plan.release, look, falls_after=2)
        for wave in self.plan.waves:
            attend = self.attend(journal)
            if await_wave(journal, wave, patrol, attend, lambda _: None, self.world.clock()).over:
                break
            self.wave(journal, wave)
        self.bring_back(journal, decide.to_undo(journal.read()))
        return store.close(journal, pid=os.getpid())

    def settle(self) -> State:
        journal = store.reopen(self.folder, None, pid=os.getpid(), now=self.world.clock().now())
        self.attend(journal)()
        state = journal.read()
        self.bring_back(journal, list(dict.fromkeys([*decide.to_undo(state), *decide.unsettled(state)])))
        return store.close(journal, pid=os.getpid())

    def bring_back(self, journal: Journal, hosts: Sequence[str]) -> None:
        for host in hosts:
            self.steps(journal, host).undo()

    def attend(self, journal: Journal) -> Callable[[], object]:
        return lambda: requests.take(journal, {})

    def steps(self, journal: Journal, host: str) -> HostSteps:
        device = self.world.devices[host]
        clock, attend = self.world.clock(), self.attend(journal)
        return HostSteps(host, journal, device, lambda: device, clock, attend, deliver=device.deliver)

    def wave(self, journal: Journal, wave: list[str]) -> None:
        todo = [self.steps(journal, host) for host in wave]
        for name in ("preflight", "stage"):
            todo = [steps for steps in todo if getattr(steps, name)().go]
        block = todo
        for name in ("drain", "activate", "gate", "drill", "confirm"):
            if name != "drill" or self.plan.policy.rollback.drill:
                block = [steps for steps in block if self.one(steps, name)]
        for steps in todo:
            steps.undrain()

    def one(self, steps: HostSteps, name: str) -> bool:
        done: Step = getattr(steps, name)()
        if done.failed:
            steps.revert(done.msg)
        return done.go and not done.failed


def make(kind: str, tmp_path: Path, release: Release, **policy: Any) -> Run:
    world = World(kind=kind)
    world.devices = {host: Board(world, host) for host in HOSTS}
    own = NEW[kind] if kind == "configuration" else {}
    made = msgspec.structs.replace(
        release,
        bundle="runtime:0.1.0+new" if kind == "runtime" else "configuration:fleet",
        kind=kind,
        model=MODEL,
        model_sha256=SHA256,
        versions=own,
    )
    values: dict[str, Any] = {
        "soak": Soak(passes=2, interval_s=1, deadline_s=10),
        "confirm_within_s": DEADLINE_S,
        "activate_within_s": ACTIVATE_S,
        "retry": Retry(attempts=2),
    }
    return Run(world, tmp_path / "rollouts", Plan(release=made, policy=Policy(**(values | policy)), waves=WAVES))


kinds = pytest.mark.parametrize("kind", NEW)


def runs(run: Run) -> dict[str, str]:
    return {name: board.runs for name, board in run.world.devices.items()}


def sound(run: Run) -> None:
    """What no rollout may leave behind."""
    for board in run.world.devices.values():
        board.tick()
        assert board.drained_until is None, f"{board.name} is left drained"
        assert board.pending is None, f"{board.name} is left unconfirmed"
        assert board.model == MODEL
        assert board.cut == 0, f"{board.name} was restarted while it took requests"


@kinds
def test_it_reaches_all_and_each_is_drained_for_its_restart(kind: str, tmp_path: Path, release: Release) -> None:
    run = make(kind, tmp_path, release)
    state = run.go()
    assert runs(run) == NEW[kind]
    assert (state.phase, {host.outcome for host in state.hosts.values()}) == ("complete", {"confirmed"})
    assert {host.before for host in state.hosts.values()} == {f"{kind}:{OLD}"}
    sound(run)
    assert run.go().count()["already"] == len(HOSTS), "a second run does it again"


@kinds
def test_a_bad_one_stops_at_the_canary_and_all_go_back_drained(kind: str, tmp_path: Path, release: Release) -> None:
    run = make(kind, tmp_path, release)
    run.world.devices["c"].bad = True
    state = run.go()
    assert runs(run) == dict.fromkeys(HOSTS, OLD)
    assert (state.phase, state.hosts["c"].outcome, state.hosts["a"].outcome) == ("stopped", "reverted", "undone")
    assert state.hosts["d"].outcome is None
    sound(run)


@kinds
def test_a_server_that_does_not_start_with_it_fails_the_host(kind: str, tmp_path: Path, release: Release) -> None:
    run = make(kind, tmp_path, release)
    run.world.devices["a"].broken = True
    state = run.go()
    assert runs(run) == dict.fromkeys(HOSTS, OLD)
    assert "did not start" in (state.hosts["a"].reason or "")
    assert [host.outcome for host in state.hosts.values()] == ["reverted", None, None, None]
    sound(run)


@kinds
def test_a_host_that_cannot_be_drained_is_left_as_it_is(kind: str, tmp_path: Path, release: Release) -> None:
    run = make(kind, tmp_path, release)
    run.world.devices["b"].busy = True
    state = run.go()
    assert (state.hosts["b"].outcome, runs(run)["b"]) == ("refused", OLD)
    assert "requests still run" in (state.hosts["b"].reason or "")
    assert runs(run)["a"] == NEW[kind]["a"], "a refusal is no word against what others have"
    sound(run)


@kinds
@pytest.mark.parametrize(
    "fault, says",
    [({"model": "other@1.0.0"}, "same-model"), ({"model": None}, "same-model"), ({"tells": False}, "tell")],
)
def test_who_cannot_be_judged_is_refused_before_anything(
    kind: str, fault: dict[str, Any], says: str, tmp_path: Path, release: Release
) -> None:
    run = make(kind, tmp_path, release)
    for name, value in fault.items():
        setattr(run.world.devices["d"], name, value)
    state = run.go()
    assert (state.hosts["d"].outcome, says in (state.hosts["d"].reason or "")) == ("refused", True)
    assert runs(run)["d"] == OLD


@kinds
def test_a_drill_goes_back_and_forward_and_takes_no_request_into_a_restart(
    kind: str, tmp_path: Path, release: Release
) -> None:
    run = make(kind, tmp_path, release, rollback=Rollback(drill=True))
    assert run.go().phase == "complete"
    assert runs(run) == NEW[kind]
    sound(run)


@kinds
def test_a_host_that_dies_in_its_activation_is_resolved_when_it_is_back(
    kind: str, tmp_path: Path, release: Release
) -> None:
    run = make(kind, tmp_path, release)
    run.world.devices["b"].off_at_activation = True
    assert run.go().hosts["b"].outcome == "lost"
    run.world.now = 200_000
    state = run.settle()
    assert state.hosts["b"].outcome == "reverted"
    assert runs(run) == dict.fromkeys(HOSTS, OLD)
    sound(run)


@kinds
def test_a_rollback_of_confirmed_hosts_names_the_kind(kind: str, tmp_path: Path, release: Release) -> None:
    run = make(kind, tmp_path, release)
    run.go()
    folder = run.folder / store.ids(run.folder)[-1]
    requests.add(folder, Request(kind=RequestKind.ROLLBACK, rollout=folder.name, by="ada", at="t", reason="smoke"))
    assert run.settle().phase == "rolled_back"
    assert runs(run) == dict.fromkeys(HOSTS, OLD)
    sound(run)


@kinds
def test_a_controller_that_never_comes_back_leaves_nobody_drained_or_changed(
    kind: str, tmp_path: Path, release: Release
) -> None:
    whole = make(kind, tmp_path / "whole", release)
    with pytest.MonkeyPatch.context() as patch:
        killable_journal(whole.world, patch)
        whole.go()
    for point in range(1, whole.world.points + 1, 3):
        with pytest.MonkeyPatch.context() as patch:
            run = make(kind, tmp_path / str(point), release)
            killable_journal(run.world, patch)
            run.world.kill_at = point
            with pytest.raises(Killed):
                run.go()
        run.world.now += ACTIVATE_S + 61
        sound(run)


@pytest.mark.slow
@kinds
@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad on c"])
def test_killed_at_every_point(kind: str, bad: bool, tmp_path: Path, release: Release) -> None:  # noqa: FBT001
    whole = make(kind, tmp_path / "whole", release)
    whole.world.devices["c"].bad = bad
    with pytest.MonkeyPatch.context() as patch:
        killable_journal(whole.world, patch)
        whole.go()
    assert whole.world.points >= 42
    for point in range(1, whole.world.points + 1):
        with pytest.MonkeyPatch.context() as patch:
            run = make(kind, tmp_path / str(point), release)
            run.world.devices["c"].bad = bad
            killable_journal(run.world, patch)
            run.world.kill_at = point
            with pytest.raises(Killed):
                run.go()
            run.world.now += 0.0 if point % 2 else 2.0 * DEADLINE_S
            run.world.kill_at = None
            known = store.ids(run.folder)
            state = Journal(run.folder / known[-1]).state() if known else None
            if state is None or state.closed_at is None:
                state = run.go()
            assert runs(run) == (dict.fromkeys(HOSTS, OLD) if bad else NEW[kind]), point
            assert state.phase == ("stopped" if bad else "complete"), point
            assert not state.turns, point
            sound(run)
