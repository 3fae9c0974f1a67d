"""One host's turn against a device in memory that keeps the device command's promises."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from hedgerow.errors import NetworkError
from hedgerow.rollout import lease
from hedgerow.rollout.events import HostFinished, HostStarted, Opened, Outcome
from hedgerow.rollout.gate.samples import Answer, Kind, Look
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Budgets, Policy, Soak
from hedgerow.rollout.remote import Completed
from hedgerow.rollout.steps import Clock, HostSteps, Step

NEW, OLD = "assistant@1.1.0", "assistant@1.0.0"


class FakeDevice:
    """``hedgerow-device`` and the server's report, as docs/contracts.md words them."""

    def __init__(self, release: Release, serves: str | None = OLD) -> None:
        self.hashes = {release.bundle: release.sha256, OLD: "01" * 32}
        self.serves = serves
        self.previous: str | None = "assistant@0.9.0"
        self.pending = False
        self.status = "ok"
        self.reasons: list[str] = []
        self.disk_free_mb = 5000.0
        self.broken: dict[str, Completed | NetworkError] = {}
        self.calls: list[str] = []
        self.wrong: str | None = None
        self.questions: list[int] = []

    # -- the command ------------------------------------------------------

    def __call__(self, arguments: Sequence[str], *, timeout_s: int) -> Completed:
        verb = arguments[0]
        self.calls.append(" ".join(arguments))
        broken = self.broken.get(verb)
        if isinstance(broken, NetworkError):
            raise broken
        if broken is not None:
            return broken
        if verb == "report":
            return Completed(0 if self.status == "ok" else 1, json.dumps(self.report()), "")
        changed = getattr(self, f"_{verb}")(*arguments[1:])
        return Completed(0, json.dumps({"changed": changed, "model": self.model(), "previous": None}), "")

    def _activate(self, bundle: str, _flag: str, _seconds: str, _json: str) -> bool:
        if self.serves == bundle:
            return False
        self.previous, self.serves, self.pending = self.serves, bundle, True
        return True

    def _confirm(self, bundle: str, _json: str) -> bool:
        assert self.serves == bundle
        self.pending = False
        return True

    def _revert(self, _flag: str, _reason: str, _json: str) -> bool:
        self.serves, self.previous, self.pending = self.previous, None, False
        return True

    # -- the server -------------------------------------------------------

    def model(self) -> dict[str, str] | None:
        if self.serves is None:
            return None
        name, version = self.serves.split("@")
        return {"name": name, "version": version, "sha256": self.hashes.get(self.serves, "ff" * 32)}

    def report(self) -> dict[str, object]:
        return {
            "status": self.status,
            "model": self.model(),
            "reasons": [{"code": code, "severity": "warning", "text": code} for code in self.reasons],
            "board": {"disk_free_mb": self.disk_free_mb},
            "pending": {"confirm_deadline": "2026-11-21T12:10:00Z"} if self.pending else None,
        }

    def look(self) -> Look:
        model = self.model() or {}
        return Look(
            at=0,
            reached=True,
            status=self.status,
            version=self.serves,
            sha256=model.get("sha256"),
            reasons=frozenset(self.reasons),
        )

    def probe(self, release: Release, number: int, *, timeout_s: float = 30) -> Answer:
        self.questions.append(number)
        wrong = self.wrong if self.serves == release.bundle else None
        kind = Kind.RIGHT if wrong is None else Kind.WRONG
        return Answer(at=0, question=number, kind=kind, latency_ms=20.0, note=wrong or "")

    def changes(self) -> list[str]:
        return [call for call in self.calls if not call.startswith("report")]


@pytest.fixture
def device(release: Release) -> FakeDevice:
    return FakeDevice(release)


@pytest.fixture
def journal(folder: Path, release: Release) -> Journal:
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="ada", since="now")
    policy = Policy(soak=Soak(passes=3, interval_s=1, deadline_s=20), budgets=Budgets(failures=0))
    journal = Journal(folder)
    journal.append(Opened(at="t0", plan=Plan(release=release, policy=policy, waves=[["a"], ["b"]]), by="ada"))
    return journal


@pytest.fixture
def steps(journal: Journal, device: FakeDevice, ticking) -> HostSteps:
    return HostSteps("a", journal, device, lambda: device, Clock(ticking.monotonic, ticking.sleep))


def turn(steps: HostSteps) -> Step:
    """The order of playbooks/rollout.yml."""
    step = steps.preflight()
    if not step.go:
        return step
    for each in (steps.activate, steps.gate, steps.confirm):
        step = each()
        if step.failed:
            return steps.revert(step.msg)
    return step


def outcome(journal: Journal, host: str = "a") -> Outcome | None:
    return journal.state().hosts[host].outcome


def test_a_good_release(steps: HostSteps, journal: Journal, device: FakeDevice) -> None:
    assert re.fullmatch(r"confirmed: 3 passes in a row: healthy; \d+ answers right", turn(steps).msg)
    assert outcome(journal) is Outcome.CONFIRMED
    assert (device.serves, device.pending) == (NEW, False)
    assert device.changes() == [f"activate {NEW} --confirm-within 600 --json", f"confirm {NEW} --json"]


def test_nothing_to_do_costs_one_question(steps: HostSteps, journal: Journal, device: FakeDevice) -> None:
    device.serves = NEW
    step = turn(steps)
    assert (step.go, step.changed) == (False, False)
    assert outcome(journal) is Outcome.ALREADY
    assert device.calls == ["report --json"]


def test_a_host_is_journaled_before_it_is_touched(steps: HostSteps, journal: Journal, device: FakeDevice) -> None:
    device.reasons, device.status = ["fan_slow"], "degraded"
    assert steps.preflight().go
    assert device.changes() == []
    assert journal.state().hosts["a"].started_at is None
    device.broken["activate"] = Completed(1, "", "")
    steps.activate()
    started = journal.events()[-1]
    assert isinstance(started, HostStarted)
    assert (started.before, started.baseline) == (OLD, ["fan_slow"])


def test_what_stood_before_is_not_held_against_the_release(
    steps: HostSteps, journal: Journal, device: FakeDevice
) -> None:
    device.reasons, device.status = ["fan_slow"], "degraded"
    turn(steps)
    assert outcome(journal) is Outcome.CONFIRMED


def test_a_failed_gate_brings_the_version_before_back(steps: HostSteps, journal: Journal, device: FakeDevice) -> None:
    steps.preflight()
    steps.activate()
    device.status = "failing"
    step = steps.gate()
    assert step.failed
    device.status = "ok"
    assert steps.revert(step.msg).changed
    assert device.serves == OLD
    assert outcome(journal) is Outcome.REVERTED
    assert journal.state().stopped == "1 host(s) failed and the rollout may cost 0"


def test_a_wrong_answer_fails_the_gate(steps: HostSteps, journal: Journal, device: FakeDevice) -> None:
    device.wrong = "it said 'Lyon'"
    turn(steps)
    assert device.serves == OLD
    assert "Lyon" in journal.state().hosts["a"].reason


def test_a_failed_activation_is_not_reverted_a_version_too_far(
    steps: HostSteps, journal: Journal, device: FakeDevice
) -> None:
    said = {"what": "golden input 2 answered wrongly", "where": "assistant@1.1.0", "next": None, "exit_code": 1}
    device.broken["activate"] = Completed(1, "", f"some log line\n{json.dumps(said)}\n")
    turn(steps)
    assert "golden input 2 answered wrongly" in journal.state().hosts["a"].reason
    assert outcome(journal) is Outcome.REVERTED
    assert device.serves == OLD
    assert not any(call.startswith("revert") for call in device.calls)


def test_a_device_that_went_back_by_itself_is_left_alone(
    steps: HostSteps, journal: Journal, device: FakeDevice
) -> None:
    steps.preflight()
    steps.activate()
    device._revert("", "", "")
    step = steps.gate()
    assert step.failed
    steps.revert(step.msg)
    assert device.serves == OLD
    assert not any(call.startswith("revert") for call in device.calls)


def test_a_host_that_is_off_is_counted_apart_and_stops_nobody(
    steps: HostSteps, journal: Journal, device: FakeDevice
) -> None:
    device.broken["report"] = NetworkError("no route to host")
    assert not turn(steps).go
    assert outcome(journal) is Outcome.UNREACHABLE
    assert journal.state().stopped is None


def test_a_host_lost_after_its_activation_counts_as_failed(
    steps: HostSteps, journal: Journal, device: FakeDevice
) -> None:
    steps.preflight()
    device.broken = {"activate": NetworkError("broken pipe"), "report": NetworkError("no route to host")}
    step = steps.activate()
    assert step.failed
    steps.revert(step.msg)
    assert outcome(journal) is Outcome.LOST
    assert journal.state().stopped is not None


def test_a_revert_that_does_not_take_is_said(steps: HostSteps, journal: Journal, device: FakeDevice) -> None:
    steps.preflight()
    steps.activate()
    device.broken["revert"] = Completed(0, "{}", "")
    steps.revert("slow")
    assert outcome(journal) is Outcome.LOST
    assert "after its revert it serves assistant@1.1.0" in journal.state().hosts["a"].reason


def test_a_first_installation_has_nothing_to_go_back_to(steps: HostSteps, journal: Journal, device: FakeDevice) -> None:
    device.serves = None
    device.wrong = "it said nothing"
    turn(steps)
    assert outcome(journal) is Outcome.KEPT
    assert journal.state().stopped is not None
    assert not any(call.startswith("revert") for call in device.calls)


def test_what_serves_the_release_and_fails_is_not_already_well(
    steps: HostSteps, journal: Journal, device: FakeDevice
) -> None:
    device.serves, device.status, device.reasons = NEW, "failing", ["model_failed"]
    assert turn(steps).msg == f"refused: serves {NEW} already, and is failing: model_failed"


def test_a_server_that_crashed_is_waited_for(steps: HostSteps, journal: Journal, device: FakeDevice, ticking) -> None:
    steps.preflight()
    steps.activate()
    device.serves = None  # what the device command says while the server is down
    comes_back = Clock(ticking.monotonic, lambda seconds: setattr(device, "serves", NEW))
    HostSteps("a", journal, device, lambda: device, comes_back).revert("it crashed")
    assert device.serves == OLD
    assert outcome(journal) is Outcome.REVERTED


def test_a_server_that_stays_down_is_lost_not_reverted(
    steps: HostSteps, journal: Journal, device: FakeDevice, ticking
) -> None:
    steps.preflight()
    steps.activate()
    device.serves = None
    steps.revert("it crashed")
    assert outcome(journal) is Outcome.LOST
    assert "serves nothing, not assistant@1.0.0" in journal.state().hosts["a"].reason
    assert ticking.now >= 20


def test_a_full_disk_is_refused_before_anything_is_touched(
    steps: HostSteps, journal: Journal, device: FakeDevice
) -> None:
    device.disk_free_mb = 120
    assert turn(steps).msg == "refused: 120 MB free on its disk, 190 MB needed"
    assert outcome(journal) is Outcome.REFUSED
    assert device.changes() == []


def test_a_host_without_the_runtime_is_refused(steps: HostSteps, journal: Journal, device: FakeDevice) -> None:
    device.broken["report"] = Completed(127, "", "sh: hedgerow-device: not found")
    assert "hedgerow-device: not found" in turn(steps).msg
    assert outcome(journal) is Outcome.REFUSED


def test_a_command_that_hangs_is_ended_and_undone(steps: HostSteps, journal: Journal, device: FakeDevice) -> None:
    device.broken["activate"] = Completed(124, "", "")
    turn(steps)
    assert "took too long" in journal.state().hosts["a"].reason


def test_after_a_stop_that_takes_nothing_back_a_started_host_ends_its_turn(
    steps: HostSteps, journal: Journal, device: FakeDevice
) -> None:
    journal.append(HostStarted(at="t", host="a", before=OLD))
    journal.append(HostFinished(at="t", host="b", outcome=Outcome.REFUSED, reason="full"))
    assert turn(steps).msg.startswith("confirmed")
    assert outcome(journal) is Outcome.CONFIRMED


def test_a_stopped_rollout_starts_nobody(steps: HostSteps, journal: Journal, device: FakeDevice) -> None:
    journal.append(HostFinished(at="t", host="b", outcome=Outcome.REVERTED, reason="slow"))
    step = turn(steps)
    assert not step.go
    assert "the rollout has stopped" in step.msg
    assert device.calls == []


def test_a_finished_host_is_not_repeated(steps: HostSteps, journal: Journal, device: FakeDevice) -> None:
    turn(steps)
    device.calls.clear()
    assert turn(steps).msg == "confirmed already in this rollout"
    assert device.calls == []


def test_a_host_cut_off_before_its_confirmation_is_gated_again(
    steps: HostSteps, journal: Journal, device: FakeDevice
) -> None:
    steps.preflight()
    steps.activate()
    step = turn(steps)
    assert step.msg.startswith("confirmed")
    assert not device.pending


def test_the_gate_waits_in_the_policys_rhythm(steps: HostSteps, journal: Journal, device: FakeDevice, ticking) -> None:
    steps.preflight()
    steps.activate()
    activated = ticking.now
    device.status, device.reasons = "degraded", ["slow_answers"]
    assert steps.gate().failed
    judged = journal.events()[-1]
    assert (judged.looks, judged.seconds, ticking.now) == (21, 20.0, pytest.approx(activated + 20))
