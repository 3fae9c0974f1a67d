"""The whole engine over devices in memory, killed before and after everything that it writes or asks, and resumed.

A kill is an exception that nobody catches, raised before a journal line, in the middle of one (a torn line is left on
the disk), after one, before a device's command, and after it took effect but before its answer came. Then time passes,
shorter or longer than the devices' deadline, and the same command is given again. Whatever the point: the fleet ends
as it does in a run that nobody killed.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from rollout_killing import Killed, Moments, killable_journal

from hedgerow.errors import NetworkError
from hedgerow.rollout import ahead, decide, report, requests, store, way_back
from hedgerow.rollout.events import GOOD, HostActivated, Outcome, Request, RequestKind, State
from hedgerow.rollout.gate.samples import Answer, Kind, Look
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.patrol import Patrol
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Budgets, Policy, Retry, Rollback, Soak
from hedgerow.rollout.policy.schedule import Freeze
from hedgerow.rollout.remote import Completed
from hedgerow.rollout.steps import HostSteps, Step
from hedgerow.rollout.waiting import await_wave

pytestmark = pytest.mark.usefixtures("errands_in_place")

NEW, OLD, OLDER = "assistant@1.1.0", "assistant@1.0.0", "assistant@0.9.0"
DEADLINE_S = 60


@dataclass(kw_only=True)
class World(Moments):
    """The devices, the clock, and the moment of the kill."""

    release: Release
    devices: dict[str, Board] = field(default_factory=dict)


@dataclass
class Board:
    """A device that keeps ``hedgerow-device``'s promises, its deadline included."""

    world: World
    serves: str | None = OLD
    previous: str | None = OLDER
    pending: tuple[str | None, str | None, float] | None = None
    staged: set[str] = field(default_factory=set)
    bad: bool = False
    registry_gone: bool = False
    full: bool = False
    off_at_activation: bool = False
    off_until: float = -1.0
    activations: int = 0

    def __call__(self, arguments: Sequence[str], *, timeout_s: int) -> Completed:
        self.world.point()
        answer = self.act(arguments)
        self.world.point()
        return answer

    def act(self, arguments: Sequence[str]) -> Completed:
        self.tick()
        if self.world.now < self.off_until:
            raise NetworkError("no route to host")
        verb, *rest = arguments
        if verb == "report":
            return Completed(0, json.dumps(self.report()), "")
        if "--here" in rest and rest[0] not in self.staged:
            return Completed(
                1, "", json.dumps({"error": "DeviceError", "what": "not here", "where": "x", "next": None})
            )
        if verb == "stage" and "--here" not in rest and (self.full or self.registry_gone):
            error = "DeviceError" if self.full else "NetworkError"
            said = {"error": error, "what": "disk full" if self.full else "registry gone", "where": "x", "next": None}
            return Completed(1, "", json.dumps(said))
        changed = getattr(self, f"do_{verb}")(*rest)
        if verb == "activate" and self.off_at_activation:
            self.off_until, self.off_at_activation = self.world.now + 100_000, False
            raise NetworkError("broken pipe")
        return Completed(0, json.dumps({"changed": changed}), "")

    def tick(self) -> None:
        """The device's own deadline."""
        if self.pending is not None and self.world.now >= self.pending[2]:
            if self.pending[0] is None:
                self.pending = None
            else:
                self.do_revert()

    def do_stage(self, bundle: str, *_: str) -> bool:
        fresh = bundle not in self.staged
        self.staged.add(bundle)
        return fresh

    def do_activate(self, bundle: str, *_: str) -> bool:
        assert bundle in self.staged, "activated before it was staged"
        if self.serves == bundle:
            return False
        assert self.pending is None, "a second activation while one waits"
        self.pending = (self.serves, self.previous, self.world.now + DEADLINE_S)
        self.previous, self.serves = self.serves, bundle
        self.activations += 1
        return True

    def do_confirm(self, bundle: str, *_: str) -> bool:
        assert self.serves == bundle, "confirmed what it does not serve"
        changed, self.pending = self.pending is not None, None
        return changed

    def do_revert(self, *_: str) -> bool:
        if self.pending is not None:
            back, previous, _ = self.pending
            assert back is not None, "a revert of a first activation"
            self.serves, self.previous, self.pending = back, previous, None
        else:
            assert self.previous is not None, "a revert with nothing before"
            self.serves, self.previous = self.previous, None
        return True

    def model(self) -> dict[str, str] | None:
        if self.serves is None:
            return None
        name, version = self.serves.split("@")
        sha256 = self.world.release.sha256 if self.serves == NEW else "01" * 32
        return {"name": name, "version": version, "sha256": sha256}

    def report(self) -> dict[str, object]:
        return {
            "status": "ok",
            "model": self.model(),
            "reasons": [],
            "board": {"disk_free_mb": 5000.0},
            "pending": {"confirm_deadline": "later"} if self.pending else None,
        }

    def look(self) -> Look:
        self.tick()
        if self.world.now < self.off_until:
            return Look(at=self.world.now, reached=False, note="no route to host")
        failing = self.bad and self.serves == NEW
        return Look(
            at=self.world.now,
            reached=True,
            status="failing" if failing else "ok",
            version=self.serves,
            sha256=(self.model() or {}).get("sha256"),
            reasons=frozenset({"requests_fail"} if failing else ()),
        )

    def probe(self, release: Release, number: int, *, timeout_s: float = 30, weigh: bool = False) -> Answer:
        return Answer(at=self.world.now, question=number, kind=Kind.RIGHT, latency_ms=20.0)


class Conductor:
    """The order of playbooks/rollout.yml, as the linear strategy walks it."""

    def __init__(self, world: World, rollouts: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world, self.rollouts, self.plan, self.clock = world, rollouts, plan, world.clock()
        killable_journal(world, monkeypatch)

    def run(self) -> State:
        journal = store.begin(self.rollouts, self.plan, pid=os.getpid(), now=self.clock.now())
        patrol = Patrol(self.plan.release, lambda host: self.world.devices[host].look, falls_after=2)
        attend = self.attend(journal)
        for wave in self.plan.waves:
            if await_wave(journal, wave, patrol, attend, lambda _: None, self.clock).over:
                break
            self.wave(journal, wave, attend)
        self.bring_back(journal, way_back.order(journal.read()), attend)
        return store.close(journal, pid=os.getpid())

    def bring_back(self, journal: Journal, hosts: Iterable[str], attend: Callable[[], object]) -> None:
        silent = [host for host in hosts if self.steps(journal, host, attend).undo().go]
        for host in silent:
            self.steps(journal, host, attend).undo()

    def settle(self) -> State:
        journal = store.reopen(self.rollouts, None, pid=os.getpid(), now=self.clock.now())
        attend = self.attend(journal)
        attend()
        state = journal.read()
        self.bring_back(journal, dict.fromkeys([*decide.to_undo(state), *decide.unsettled(state)]), attend)
        return store.close(journal, pid=os.getpid())

    def wave(self, journal: Journal, wave: list[str], attend: Callable[[], object]) -> None:
        turns = {host: self.steps(journal, host, attend) for host in wave}
        todo = self.each(turns, lambda steps: steps.preflight())
        todo = self.each(todo, lambda steps: steps.stage())
        for name in ("activate", "gate", "drill", "confirm"):
            if name != "drill" or self.plan.policy.rollback.drill:
                todo = self.each(todo, lambda steps, name=name: getattr(steps, name)())

    def each(self, todo: dict[str, HostSteps], step: Callable[[HostSteps], Step]) -> dict[str, HostSteps]:
        going = {}
        for host, steps in todo.items():
            done = step(steps)
            if done.failed:
                steps.revert(done.msg)
            elif done.go:
                going[host] = steps
        return going

    def steps(self, journal: Journal, host: str, attend: Callable[[], object]) -> HostSteps:
        device = self.world.devices[host]
        return HostSteps(host, journal, device, lambda: device, self.clock, attend)

    def attend(self, journal: Journal) -> Callable[[], object]:
        return lambda: requests.take(journal, {})


@dataclass(frozen=True)
class Scenario:
    """What is wrong with the fleet, and how the rollout ends all the same. ``serves`` and ``outcomes`` by host."""

    prepare: Callable[[dict[str, Board]], None]
    serves: dict[str, str | None]
    phase: str
    policy: dict[str, object] = field(default_factory=dict)
    ask: RequestKind | None = None
    lost: bool = False


HOSTS = ("a", "b", "c", "d")
WAVES = [["a"], ["b", "c"], ["d"]]


def everywhere(version: str | None, **others: str | None) -> dict[str, str | None]:
    return dict.fromkeys(HOSTS, version) | others


def make(**faults: dict[str, object]) -> Callable[[dict[str, Board]], None]:
    def prepare(boards: dict[str, Board]) -> None:
        for host, values in faults.items():
            for name, value in values.items():
                setattr(boards[host], name, value)

    return prepare


SCENARIOS = {
    "good": Scenario(make(), everywhere(NEW), "complete"),
    "first installation": Scenario(make(a={"serves": None, "previous": None}), everywhere(NEW), "complete"),
    "bad on one host of the second wave": Scenario(make(c={"bad": True}), everywhere(OLD), "stopped"),
    "bad within the budget": Scenario(
        make(c={"bad": True}), everywhere(NEW, c=OLD), "partial", {"budgets": Budgets(failures=1)}
    ),
    "only the failed go back": Scenario(
        make(c={"bad": True}),
        everywhere(OLD, a=NEW, b=NEW),
        "stopped",
        {"rollback": Rollback(on_stop="failed")},
    ),
    "a disk is full": Scenario(make(b={"full": True}), everywhere(OLD, a=NEW), "stopped"),
    "the registry goes": Scenario(make(d={"registry_gone": True}), everywhere(NEW, d=OLD), "stopped"),
    "a host is off": Scenario(make(b={"off_until": 1e9}), everywhere(NEW, b=OLD), "partial"),
    "a host dies in its activation": Scenario(
        make(b={"off_at_activation": True}), everywhere(OLD), "stopped", lost=True
    ),
    "a drill of the way back": Scenario(make(), everywhere(NEW), "complete", {"rollback": Rollback(drill=True)}),
    "an emergency stop": Scenario(make(), everywhere(OLD), "stopped", ask=RequestKind.ABORT),
    "a rollback meanwhile": Scenario(make(), everywhere(OLD), "rolled_back", ask=RequestKind.ROLLBACK),
}


@dataclass
class Run:
    """One scenario, run with at most one kill, or several."""

    scenario: Scenario
    release: Release
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    ended: bool = False

    def __post_init__(self) -> None:
        values: dict[str, object] = {
            "soak": Soak(passes=2, interval_s=1, deadline_s=10),
            "confirm_within_s": DEADLINE_S,
            "retry": Retry(attempts=2),
        }
        plan = Plan(release=self.release, policy=Policy(**(values | self.scenario.policy)), waves=WAVES)  # type: ignore[arg-type]
        self.world = World(release=self.release)
        self.world.devices = {host: Board(self.world) for host in HOSTS}
        self.scenario.prepare(self.world.devices)
        self.conductor = Conductor(self.world, self.folder, plan, self.monkeypatch)
        if self.scenario.ask is not None:
            board = self.world.devices["c"]
            activate = board.do_activate

            def asked_meanwhile(bundle: str, *rest: str) -> bool:
                self.ask()
                return activate(bundle, *rest)

            board.do_activate = asked_meanwhile  # type: ignore[method-assign]

    def ask(self) -> None:
        folder = self.folder / store.ids(self.folder)[-1]
        if not requests.pending(folder, 0) and self.scenario.ask is not None:
            request = Request(kind=self.scenario.ask, rollout=folder.name, by="ada", at="t", reason="smoke")
            requests.add(folder, request)

    def go(self, kills: Sequence[tuple[int, float]]) -> State:
        """Run; each kill is so many points later and followed by so many seconds without a controller."""
        for points, away_s in kills:
            self.world.kill_at = self.world.points + points
            try:
                return self.work()
            except Killed:
                self.ended = self.ended or self.closed()
                self.world.now += away_s
                for board in self.world.devices.values():
                    board.tick()
        self.world.kill_at = None
        return self.work()

    def closed(self) -> bool:
        """Killed after the last line: that rollout has ended, and the same command would be a new one."""
        known = store.ids(self.folder)
        state = Journal(self.folder / known[-1]).state() if known else None
        return state is not None and state.closed_at is not None

    def work(self) -> State:
        """What an operator does: the command, again if it was cut off, and then ``resume`` for those that were lost."""
        if not self.ended:
            state = self.conductor.run()
            self.ended = True
            if not self.scenario.lost:
                return state
        if self.scenario.lost:
            # It is switched on again; what became of it is asked then.
            self.world.now = max(self.world.now, 200_000)
        return self.conductor.settle()


def check(run: Run, state: State) -> None:
    boards = run.world.devices
    assert {name: board.serves for name, board in boards.items()} == run.scenario.serves
    assert state.phase == run.scenario.phase
    assert not state.turns, "a started host was forgotten"
    assert not any(board.pending for board in boards.values()), "left unconfirmed"
    for name, host in state.hosts.items():
        serves_new = boards[name].serves == NEW
        assert (host.outcome in GOOD) == serves_new, (name, host.outcome)
    journal = Journal(run.folder / store.ids(run.folder)[-1])
    done: set[str] = set()
    for event in journal.events():
        if isinstance(event, HostActivated):
            assert event.host not in done, "a finished host was changed again"
        elif getattr(event, "outcome", None) is Outcome.CONFIRMED:
            done.add(event.host)  # type: ignore[union-attr]


@pytest.fixture(params=SCENARIOS, ids=str)
def scenario(request: pytest.FixtureRequest) -> Scenario:
    return SCENARIOS[request.param]


def test_nobody_is_killed(scenario: Scenario, release: Release, tmp_path: Path, monkeypatch) -> None:
    run = Run(scenario, release, tmp_path, monkeypatch)
    check(run, run.go([]))


@pytest.mark.slow
def test_killed_at_every_point(scenario: Scenario, release: Release, tmp_path: Path, monkeypatch) -> None:
    whole = Run(scenario, release, tmp_path / "whole", monkeypatch)
    whole.go([])
    # Twelve scenarios: more than 500 points in all.
    assert whole.world.points >= 42
    monkeypatch.undo()
    for point in range(1, whole.world.points + 1):
        # Each kind of point is met with both: what is done at a point takes an odd number of them.
        away_s = 0.0 if point % 2 else 2.0 * DEADLINE_S
        with pytest.MonkeyPatch.context() as patch:
            run = Run(scenario, release, tmp_path / str(point), patch)
            state = run.go([(point, away_s)])
            try:
                check(run, state)
            except AssertionError as error:
                raise AssertionError(f"killed at point {point}, away for {away_s:g} s: {error}") from error


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_again_and_again(
    scenario: Scenario, release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    kills = [(chance.randint(1, 60), chance.choice([0.0, 5.0, 2.0 * DEADLINE_S])) for _ in range(6)]
    run = Run(scenario, release, tmp_path, monkeypatch)
    check(run, run.go(kills))


def test_a_freeze_in_the_middle_of_a_wave_leaves_hosts_to_the_next_run(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def activated_at(host: str) -> float:
        with pytest.MonkeyPatch.context() as patch:
            probe = Run(Scenario(make(), everywhere(NEW), "complete"), release, tmp_path / "probe", patch)
            probe.go([])
            journal = Journal(probe.folder / store.ids(probe.folder)[-1])
            [event] = [each for each in journal.events() if isinstance(each, HostActivated) and each.host == host]
            return (datetime.fromisoformat(event.at) - datetime(2026, 11, 21, 12, tzinfo=UTC)).total_seconds()

    begins = datetime(2026, 11, 21, 12, tzinfo=UTC) + timedelta(seconds=activated_at("b") + 0.5)
    freeze = {"from": begins.isoformat(), "to": (begins + timedelta(hours=1)).isoformat(), "reason": "fair"}
    policy = {"freeze": [msgspec.convert(freeze, Freeze)]}
    run = Run(Scenario(make(), everywhere(NEW, c=OLD), "partial", policy), release, tmp_path / "frozen", monkeypatch)
    state = run.conductor.run()
    # Who was in the middle of its turn ended it; the last wave waited for the freeze's end.
    assert {name: host.outcome for name, host in state.hosts.items()} == dict.fromkeys(HOSTS, Outcome.CONFIRMED) | {
        "c": Outcome.SKIPPED
    }
    assert state.hosts["c"].reason.startswith("freeze: frozen: fair")
    said = report.summary(state)
    assert said[-1] == "  next: 1 host(s) were passed over and get it with: hedgerow rollout resume"
    again = run.conductor.run()
    assert (again.phase, again.hosts["c"].outcome) == ("complete", Outcome.CONFIRMED)
    assert {name: board.activations for name, board in run.world.devices.items()} == dict.fromkeys(HOSTS, 1)


@pytest.mark.parametrize("point", range(1, 40, 3))
def test_killed_while_hosts_are_staged_ahead(release: Release, tmp_path: Path, monkeypatch, point: int) -> None:
    """The run that goes on stages who lacks it, nobody twice, and serves nothing else."""
    run = Run(Scenario(make(), everywhere(NEW), "complete"), release, tmp_path, monkeypatch)
    run.world.kill_at = point
    staged: list[str] = []
    for board, name in ((board, name) for name, board in run.world.devices.items()):
        stage = board.do_stage
        board.do_stage = lambda bundle, *rest, stage=stage, name=name: (staged.append(name), stage(bundle, *rest))[1]  # type: ignore[method-assign]

    def stage_ahead() -> None:
        conductor = run.conductor
        journal = store.begin(conductor.rollouts, conductor.plan, pid=os.getpid(), now=conductor.clock.now())
        for host in ahead.visits(journal.read())[0]:
            conductor.steps(journal, host, lambda: None).stage_ahead()

    try:
        stage_ahead()
    except Killed:
        run.world.kill_at = None
        stage_ahead()
    journal = Journal(tmp_path / store.ids(tmp_path)[-1])
    assert ahead.staged(journal.read()) == len(HOSTS)
    assert {board.serves for board in run.world.devices.values()} == {OLD}
    # One whose answer was lost is asked again, and has it then.
    assert len(staged) <= len(HOSTS) + 1
    run.world.kill_at = None
    check(run, run.go([]))
    assert len(store.ids(tmp_path)) == 1
