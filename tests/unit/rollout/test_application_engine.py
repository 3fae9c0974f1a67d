"""The engine over devices in memory with an application: never drained, gated on how it runs, killed anywhere."""

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
from hedgerow.fleet.reported import ReportedApplication
from hedgerow.rollout import decide, requests, store
from hedgerow.rollout.events import State
from hedgerow.rollout.gate.samples import Answer, Kind, Look
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.patrol import Patrol
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy, Retry, Soak
from hedgerow.rollout.remote import Completed
from hedgerow.rollout.steps import HostSteps
from hedgerow.rollout.survey import survey
from hedgerow.rollout.waiting import await_wave

pytestmark = pytest.mark.usefixtures("errands_in_place")

MODEL, SHA256 = "assistant@1.0.0", "01" * 32
HOSTS = ("a", "b", "c", "d")
WAVES = [["a"], ["b", "c"], ["d"]]
OLD, NEW = "1.0.0", "1.1.0"
DEADLINE_S = 60
STEP = 3  # every third of some hundred points; a rollout that was killed takes a part of a second


@dataclass(kw_only=True)
class World(Moments):
    devices: dict[str, Board] = field(default_factory=dict)


@dataclass
class Board:
    """A device that keeps ``hedgerow-device``'s promises: what nobody confirms goes back, the first one to nothing."""

    world: World
    name: str
    runs: str | None = OLD
    previous: str | None = None
    pending: tuple[str | None, str | None, float] | None = None
    staged: set[str] = field(default_factory=set)
    named: bool = True
    model: str = MODEL
    fails: str = ""
    """How NEW fails here: ``start`` (it does not), ``restarts``, ``dies``, ``silent``, or ``model`` (that suffers)."""
    off_at_activation: bool = False
    off_until: float = -1.0

    def __call__(self, arguments: Sequence[str], *, timeout_s: int) -> Completed:
        self.world.point()
        self.tick()
        if self.world.now < self.off_until:
            raise NetworkError("no route to host")
        verb, *rest = [word for word in arguments if word != "--json"]
        if verb == "report":
            answer = Completed(0, json.dumps(msgspec.to_builtins(self.report())), "")
        else:
            try:
                answer = Completed(0, json.dumps({"changed": getattr(self, f"do_{verb}")(*rest), "load_s": 2.0}), "")
            except RuntimeError as error:
                said = {"error": "DeviceError", "what": str(error), "where": "x", "next": None}
                answer = Completed(1, "", json.dumps(said))
        if verb == "activate" and self.off_at_activation:
            self.off_until, self.off_at_activation = self.world.now + 100_000, False
            raise NetworkError("broken pipe")
        self.world.point()
        return answer

    def tick(self) -> None:
        if self.pending is not None and self.world.now >= self.pending[2]:
            self.back()

    def back(self) -> None:
        if self.pending is not None:
            self.runs, self.previous = self.pending[:2]
            self.pending = None
            return
        if self.previous is None:
            raise RuntimeError("there is no version of kiosk to go back to")
        self.runs, self.previous = self.previous, None

    def do_stage(self, change: str, *words: str) -> bool:
        assert change == f"application:kiosk@{NEW}"
        if "--here" in words and change not in self.staged:
            raise RuntimeError(f"not every byte of {change} is on this device")
        changed = change not in self.staged
        self.staged.add(change)
        return changed

    def do_activate(self, change: str, *_: str) -> bool:
        assert change in self.staged, "activated before it was staged"
        if self.runs == NEW:
            return False
        assert self.pending is None
        if self.fails == "start":
            raise RuntimeError("kiosk@1.1.0 did not start: nobody answers at 8090/tcp")
        self.pending = (self.runs, self.previous, self.world.now + DEADLINE_S)
        self.previous, self.runs = self.runs, NEW
        return True

    def do_confirm(self, change: str) -> bool:
        assert change == f"application:kiosk@{self.runs}"
        changed, self.pending = self.pending is not None, None
        return changed

    def do_revert(self, *words: str) -> bool:
        assert words[:4] == ("--kind", "application", "--name", "kiosk"), "it could take back anything else"
        self.back()
        return True

    def do_drain(self, *_: str) -> bool:
        pytest.fail("the model is drained for an application")

    do_undrain = do_drain

    def report(self) -> dict[str, Any]:
        self.tick()
        name, _, version = self.model.partition("@")
        fails = self.fails if self.runs == NEW else ""
        trouble = {"dies": "failed/failed, exit-code", "silent": "nobody answers at 8090/tcp"}.get(fails)
        kiosk = ReportedApplication(
            "kiosk",
            self.runs,
            active=self.runs is not None and fails != "dies",
            restarts=1 if fails == "restarts" else 0,
            trouble=trouble,
        )
        reasons = [{"code": "application_failing", "severity": "warning"}] if trouble else []
        reasons += [{"code": "requests_fail", "severity": "warning"}] if fails == "model" else []
        return {
            "status": "degraded" if reasons else "ok",
            "model": {"name": name, "version": version, "sha256": SHA256},
            "reasons": reasons,
            "board": {"disk_free_mb": 5000.0},
            "pending": {"confirm_deadline": "later"} if self.pending else None,
            "applications": [kiosk] if self.named else [],
        }

    def look(self) -> Look:
        if self.world.now < self.off_until:
            return Look(at=self.world.now, reached=False, note="no route to host")
        report = self.report()
        return Look(
            at=self.world.now,
            reached=True,
            status=report["status"],
            version=self.model,
            sha256=SHA256,
            applications=tuple(report["applications"]),
            reasons=frozenset(each["code"] for each in report["reasons"]),
        )

    def probe(self, release: Release, number: int, *, timeout_s: float = 30, weigh: bool = False) -> Answer:
        assert release.name == "assistant", "asked a model that nobody has"
        return Answer(at=self.world.now, question=number, kind=Kind.RIGHT, latency_ms=20.0)


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
        for host in decide.to_undo(journal.read()):
            self.steps(journal, host).undo()
        return store.close(journal, pid=os.getpid())

    def attend(self, journal: Journal) -> Callable[[], object]:
        return lambda: requests.take(journal, {})

    def steps(self, journal: Journal, host: str) -> HostSteps:
        device = self.world.devices[host]
        return HostSteps(host, journal, device, lambda: device, self.world.clock(), self.attend(journal))

    def wave(self, journal: Journal, wave: list[str]) -> None:
        todo = [self.steps(journal, host) for host in wave]
        for name in ("preflight", "stage"):
            todo = [steps for steps in todo if getattr(steps, name)().go]
        for name in ("activate", "gate", "drill", "confirm"):
            if name != "drill" or self.plan.policy.rollback.drill:
                todo = [steps for steps in todo if self.one(steps, name)]

    def one(self, steps: HostSteps, name: str) -> bool:
        done = getattr(steps, name)()
        if done.failed:
            steps.revert(done.msg)
        return bool(done.go and not done.failed)


def make(tmp_path: Path, release: Release, **policy: Any) -> Run:
    assert not decide.drains("application")
    world = World()
    world.devices = {host: Board(world, host) for host in HOSTS}
    made = msgspec.structs.replace(
        release, bundle=f"application:kiosk@{NEW}", kind="application", model=MODEL, model_sha256=SHA256
    )
    values: dict[str, Any] = {
        "soak": Soak(passes=2, interval_s=1, deadline_s=10),
        "confirm_within_s": DEADLINE_S,
        "activate_within_s": 100,
        "retry": Retry(attempts=2),
    }
    return Run(world, tmp_path / "rollouts", Plan(release=made, policy=Policy(**(values | policy)), waves=WAVES))


def runs(run: Run) -> dict[str, str | None]:
    return {name: board.runs for name, board in run.world.devices.items()}


def sound(run: Run) -> None:
    """What no rollout may leave behind."""
    for board in run.world.devices.values():
        board.tick()
        assert board.pending is None, f"{board.name} is left unconfirmed"
        assert board.model == MODEL


def test_it_reaches_all_while_the_model_is_served(tmp_path: Path, release: Release) -> None:
    run = make(tmp_path, release)
    state = run.go()
    assert runs(run) == dict.fromkeys(HOSTS, NEW)
    assert (state.phase, {host.outcome for host in state.hosts.values()}) == ("complete", {"confirmed"})
    assert {host.before for host in state.hosts.values()} == {f"application:kiosk@{OLD}"}
    sound(run)
    assert run.go().count()["already"] == len(HOSTS), "a second run does it again"


@pytest.mark.parametrize(
    "fails, says",
    [
        ("start", "nobody answers at 8090/tcp"),
        ("restarts", "was restarted 1 time"),
        ("dies", "does not run as it should: failed/failed"),
        ("silent", "does not run as it should: nobody answers"),
        ("model", "requests_fail"),
    ],
)
def test_a_bad_one_stops_there_and_all_go_back(tmp_path: Path, release: Release, fails: str, says: str) -> None:
    run = make(tmp_path, release)
    run.world.devices["c"].fails = fails
    state = run.go()
    assert runs(run) == dict.fromkeys(HOSTS, OLD)
    assert (state.phase, state.hosts["c"].outcome, state.hosts["a"].outcome) == ("stopped", "reverted", "undone")
    assert says in (state.hosts["c"].reason or "")
    assert state.hosts["d"].outcome is None
    sound(run)


def test_one_that_mends_a_failing_version_is_held_to_running_all_the_same(tmp_path: Path, release: Release) -> None:
    """Its reason stood before the release touched the host, which excuses other troubles and not its own."""
    run = make(tmp_path, release)
    board = run.world.devices["a"]
    report = Board.report

    def failing_before(self: Board) -> dict[str, Any]:
        found = report(self)
        if self is board and self.runs == OLD:
            found |= {"status": "degraded", "reasons": [{"code": "application_failing", "severity": "warning"}]}
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Board, "report", failing_before)
        board.fails = "silent"
        state = run.go()
    assert (state.hosts["a"].outcome, runs(run)["a"]) == ("reverted", OLD)


def test_a_first_installation_that_fails_goes_again(tmp_path: Path, release: Release) -> None:
    run = make(tmp_path, release)
    for board in run.world.devices.values():
        board.runs = None
    run.world.devices["a"].fails = "restarts"
    state = run.go()
    assert runs(run) == dict.fromkeys(HOSTS)
    assert state.hosts["a"].outcome == "reverted"
    assert state.hosts["a"].before is None
    sound(run)


def test_a_first_installation_that_was_confirmed_is_kept_when_others_fail(tmp_path: Path, release: Release) -> None:
    run = make(tmp_path, release)
    for board in run.world.devices.values():
        board.runs = None
    run.world.devices["c"].fails = "dies"
    state = run.go()
    assert [runs(run)[name] for name in ("a", "c", "d")] == [NEW, None, None]
    assert state.hosts["a"].outcome == "kept"
    sound(run)


def test_a_host_that_has_no_place_for_it_is_refused_untouched(tmp_path: Path, release: Release) -> None:
    run = make(tmp_path, release)
    run.world.devices["a"].named = False
    state = run.go()
    assert (state.hosts["a"].outcome, runs(run)["a"]) == ("refused", OLD)
    assert "no place for kiosk" in (state.hosts["a"].reason or "")


def test_a_host_with_another_model_is_refused_untouched(tmp_path: Path, release: Release) -> None:
    run = make(tmp_path, release)
    run.world.devices["a"].model = "other@1.0.0"
    state = run.go()
    assert (state.hosts["a"].outcome, runs(run)["a"]) == ("refused", OLD)
    assert "rule same-model" in (state.hosts["a"].reason or "")


def test_a_host_that_is_lost_goes_back_by_its_own_deadline(tmp_path: Path, release: Release) -> None:
    run = make(tmp_path, release)
    board = run.world.devices["a"]
    board.off_at_activation = True
    state = run.go()
    assert state.hosts["a"].outcome == "lost"
    board.off_until = -1.0
    run.world.now += DEADLINE_S
    board.tick()
    assert (board.runs, board.pending) == (OLD, None)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [None, "c"])
def test_killed_anywhere_and_gone_on_with(tmp_path: Path, release: Release, bad: str | None) -> None:
    def fresh(name: str) -> Run:
        run = make(tmp_path / name, release)
        if bad is not None:
            run.world.devices[bad].fails = "dies"
        return run

    with pytest.MonkeyPatch.context() as patch:
        whole = fresh("whole")
        killable_journal(whole.world, patch)
        whole.go()
    after, points = runs(whole), whole.world.points
    assert points > 40, "nothing was counted, so nothing would be killed"
    for point in range(1, points + 1, STEP):
        run = fresh(str(point))
        with pytest.MonkeyPatch.context() as patch:
            killable_journal(run.world, patch)
            run.world.kill_at = point
            with pytest.raises(Killed):
                run.go()
            run.world.kill_at = None
            run.go()
        assert runs(run) == after, point
        sound(run)
