"""One host's turn against a device in memory that keeps the device command's promises."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from hedgerow.errors import NetworkError
from hedgerow.rollout import holds, lease, requests
from hedgerow.rollout.events import (
    HostFinished,
    HostJudged,
    HostRetried,
    HostStarted,
    Opened,
    Outcome,
    Request,
    RequestKind,
    Resumed,
)
from hedgerow.rollout.gate import baseline
from hedgerow.rollout.gate.samples import Answer, Kind, Look
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Budgets, Policy, Soak, parse
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
        self.answers_in_ms = {release.bundle: 20.0, OLD: 20.0}
        self.throttled = False

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

    def _stage(self, bundle: str, *_: str) -> bool:
        return self.serves != bundle

    def _activate(self, bundle: str, _flag: str, _seconds: str, _json: str) -> bool:
        if self.serves == bundle:
            return False
        self.previous, self.serves, self.pending = self.serves, bundle, True
        return True

    def _confirm(self, bundle: str, _json: str) -> bool:
        assert self.serves == bundle
        self.pending = False
        return True

    def _revert(self, *_: str) -> bool:
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
            throttled=self.throttled,
        )

    def probe(self, release: Release, number: int, *, timeout_s: float = 30) -> Answer:
        self.questions.append(number)
        wrong = self.wrong if self.serves == release.bundle else None
        kind = Kind.RIGHT if wrong is None else Kind.WRONG
        return Answer(
            at=0, question=number, kind=kind, latency_ms=self.answers_in_ms[self.serves or ""], note=wrong or ""
        )

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


def test_who_was_held_after_the_plan_was_made_is_not_asked_at_all(
    steps: HostSteps, journal: Journal, device: FakeDevice
) -> None:
    holds.hold(journal.folder.parent, "a", "on loan", by="ada@desk", now=datetime.now(UTC))
    assert steps.preflight().msg == "skipped: held by ada@desk: on loan"
    assert (outcome(journal), device.calls) == (Outcome.SKIPPED, [])


def test_a_hold_does_not_leave_a_host_in_the_middle_of_its_turn(
    steps: HostSteps, journal: Journal, device: FakeDevice
) -> None:
    steps.preflight()
    steps.activate()
    holds.hold(journal.folder.parent, "a", "on loan", by="ada@desk", now=datetime.now(UTC))
    assert turn(steps).msg.startswith("confirmed: ")


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
    device._revert()
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


# -- staging, and causes that pass ---------------------------------------------------------


def whole_turn(steps: HostSteps) -> Step:
    """The order of playbooks/rollout.yml, staging included."""
    for each in (steps.preflight, steps.stage):
        step = each()
        if not step.go:
            return step
    for each in (steps.activate, steps.gate, steps.confirm):
        step = each()
        if step.failed:
            return steps.revert(step.msg)
        if not step.go:
            return step
    return step


def said(what: str, error: str) -> Completed:
    document = {"error": error, "what": what, "where": "there", "next": None, "exit_code": 1}
    return Completed(1, "", json.dumps(document))


def test_a_registry_that_answers_again_costs_a_wait(
    steps: HostSteps, journal: Journal, device: FakeDevice, ticking
) -> None:
    device.broken["stage"] = said("the registry does not answer", "NetworkError")

    def sleep(seconds: float) -> None:
        ticking.sleep(seconds)
        device.broken.pop("stage", None)

    again = HostSteps("a", journal, device, lambda: device, Clock(ticking.monotonic, sleep))
    assert whole_turn(again).msg.startswith("confirmed")
    [retried] = [event for event in journal.events() if isinstance(event, HostRetried)]
    assert (retried.attempt, retried.after_s, retried.cause) == (
        1,
        2.0,
        "hedgerow-device stage: the registry does not answer",
    )


def test_a_registry_that_stays_away_stops_the_rollout_cleanly(
    steps: HostSteps, journal: Journal, device: FakeDevice, ticking
) -> None:
    device.broken["stage"] = said("the registry does not answer", "NetworkError")
    assert whole_turn(steps).msg.startswith("skipped: staging failed in 4 tries")
    assert ticking.now == 2 + 4 + 8
    state = journal.read()
    assert (state.undo, state.tally().failed, device.serves) == (False, 0, OLD)
    assert "a could not get the release in 4 tries" in str(state.stopped)
    assert state.hosts["a"].started_at is None


def test_a_refusal_is_never_asked_twice(steps: HostSteps, journal: Journal, device: FakeDevice) -> None:
    device.broken["stage"] = said("no space left on the device", "DeviceError")
    assert whole_turn(steps).msg == ("refused: staging failed: hedgerow-device stage: no space left on the device")
    assert sum(call.startswith("stage") for call in device.calls) == 1
    assert journal.read().undo is False


# -- fitness before the turn ---------------------------------------------------------------


@pytest.mark.parametrize(
    "code, fit", [("certificate_expired", False), ("server_down", False), ("no_model", True), ("model_failed", True)]
)
def test_a_host_that_is_not_well_is_refused_unless_a_release_mends_it(
    steps: HostSteps, device: FakeDevice, monkeypatch, code: str, *, fit: bool
) -> None:
    report = device.report()
    critical = {"reasons": [{"code": code, "severity": "critical", "text": code}], "status": "failing"}
    monkeypatch.setattr(device, "report", lambda: report | critical)
    assert steps.preflight().go is fit
    assert device.changes() == []


def test_a_host_that_its_users_cannot_reach_is_refused(steps: HostSteps, device: FakeDevice, monkeypatch) -> None:
    lost = Look(at=0, reached=False, note="certificate has expired")
    monkeypatch.setattr(device, "look", lambda: lost)
    assert "not as its users reach it: certificate has expired" in steps.preflight().msg
    assert device.changes() == []


def test_somebody_elses_activation_is_waited_out(steps: HostSteps, journal: Journal, device: FakeDevice) -> None:
    device.pending = True
    assert steps.preflight().msg.startswith(f"skipped: {OLD} waits there for a confirmation")
    assert journal.read().stopped is None


# -- what ends a turn from outside ---------------------------------------------------------


def ask(journal: Journal, kind: RequestKind) -> None:
    requests.add(journal.folder, Request(kind=kind, rollout=journal.folder.name, by="ada", at="t"))


@pytest.fixture
def heard(journal: Journal, device: FakeDevice, ticking) -> HostSteps:
    """Steps that hear what operators ask."""
    clock = Clock(ticking.monotonic, ticking.sleep)
    return HostSteps("a", journal, device, lambda: device, clock, lambda: requests.take(journal, {}))


def test_an_emergency_stop_ends_a_gate_and_the_host_goes_back(
    heard: HostSteps, journal: Journal, device: FakeDevice, ticking
) -> None:
    heard.preflight()
    heard.activate()
    ask(journal, RequestKind.ABORT)
    began = ticking.now
    step = heard.gate()
    assert step.failed
    assert ticking.now - began <= 1
    heard.revert(step.msg)
    assert outcome(journal) is Outcome.UNDONE
    assert (device.serves, journal.read().tally().failed) == (OLD, 0)


def test_between_gate_and_confirmation_it_is_heard_as_well(
    heard: HostSteps, journal: Journal, device: FakeDevice
) -> None:
    heard.preflight()
    heard.activate()
    heard.gate()
    ask(journal, RequestKind.ABORT)
    assert heard.confirm().failed
    assert "confirm" not in " ".join(device.changes()).replace("--confirm-within", "")


@pytest.mark.parametrize("kind", [RequestKind.ABORT, RequestKind.PAUSE])
def test_who_is_not_activated_yet_is_left_as_it_is(
    heard: HostSteps, journal: Journal, device: FakeDevice, kind: RequestKind
) -> None:
    heard.preflight()
    heard.stage()
    ask(journal, kind)
    step = heard.activate()
    assert (step.go, step.failed) == (False, False)
    assert device.changes() == [f"stage {NEW} --json"]
    assert journal.read().hosts["a"].started_at is None


def test_a_freeze_that_begins_meanwhile_passes_over_who_has_not_started(
    journal: Journal, device: FakeDevice, ticking
) -> None:
    noon = datetime(2026, 12, 24, 12, tzinfo=UTC)
    clock = Clock(ticking.monotonic, ticking.sleep, lambda: noon + timedelta(seconds=ticking.now))
    freeze = {"from": "2026-12-24T12:10", "to": "2026-12-27", "reason": "Christmas"}
    plan = msgspec.structs.replace(journal.read().plan, policy=parse({"freeze": [freeze]}, where="test"))
    journal.append(Resumed(at="t", plan=plan, by="ada"))
    first, second = (HostSteps(host, journal, device, lambda: device, clock) for host in "ab")
    assert first.preflight().go
    assert second.preflight().go
    first.activate()
    ticking.sleep(600)
    assert second.activate().msg.startswith("skipped: freeze: frozen: Christmas")
    assert not first.gate().failed
    assert first.confirm().msg.startswith("confirmed")


@pytest.mark.parametrize(
    "verdict, expected, failed",
    [
        ("environment", Outcome.ENVIRONMENT, 0),
        ("no_data", Outcome.UNJUDGED, 0),
        ("unreachable", Outcome.REVERTED, 1),
        ("fail", Outcome.REVERTED, 1),
    ],
)
def test_what_a_host_counts_as_follows_from_its_verdict(
    steps: HostSteps, journal: Journal, device: FakeDevice, verdict: str, expected: Outcome, *, failed: int
) -> None:
    steps.preflight()
    steps.activate()
    journal.append(HostJudged(at="t", host="a", verdict=verdict, reason="so", looks=1, seconds=1))
    steps.revert(f"gate says {verdict}")
    assert outcome(journal) is expected
    assert (journal.read().tally().failed, device.serves) == (failed, OLD)
    assert (journal.read().no_data is not None) is (verdict == "no_data")


def test_a_failed_gate_is_not_tried_again_after_the_run_was_cut_off(
    steps: HostSteps, journal: Journal, device: FakeDevice
) -> None:
    steps.preflight()
    steps.activate()
    journal.append(HostJudged(at="t", host="a", verdict="environment", reason="hot", looks=1, seconds=1))
    assert whole_turn(steps).msg.startswith("environment: its gate had said environment before the run was cut off")


# -- the way back --------------------------------------------------------------------------


def test_a_drill_goes_back_and_forward_again(steps: HostSteps, journal: Journal, device: FakeDevice) -> None:
    for step in (steps.preflight, steps.activate, steps.gate, steps.drill, steps.confirm):
        assert not step().failed
    verbs = [call.split()[0] for call in device.changes()]
    assert verbs == ["activate", "revert", "activate", "confirm"]
    assert (device.serves, outcome(journal)) == (NEW, Outcome.CONFIRMED)


def test_a_drill_whose_way_back_is_broken_fails_the_host(steps: HostSteps, device: FakeDevice) -> None:
    steps.preflight()
    steps.activate()
    device.broken["revert"] = said("the version before is damaged", "DeviceError")
    assert "the drill failed" in steps.drill().msg


def test_a_rollback_brings_a_confirmed_host_back_once(steps: HostSteps, journal: Journal, device: FakeDevice) -> None:
    whole_turn(steps)
    ask(journal, RequestKind.ROLLBACK)
    requests.take(journal, {})
    assert steps.undo().changed
    assert (device.serves, outcome(journal)) == (OLD, Outcome.UNDONE)
    device.calls.clear()
    assert steps.undo().msg == "stays as it is"
    assert device.calls == []


def test_a_line_that_breaks_in_a_revert_does_not_take_it_a_version_too_far(
    steps: HostSteps, journal: Journal, device: FakeDevice, monkeypatch
) -> None:
    steps.preflight()
    steps.activate()
    revert = device._revert

    def cut_off(*words: str) -> bool:
        revert(*words)
        raise NetworkError("broken pipe")

    monkeypatch.setattr(device, "_revert", cut_off)
    steps.revert("slow")
    assert (device.serves, outcome(journal)) == (OLD, Outcome.REVERTED)
    assert sum(call.startswith("revert") for call in device.calls) == 1


@pytest.mark.parametrize("reverted", [True, False])
def test_a_lost_host_is_resolved_when_it_is_back(
    steps: HostSteps, journal: Journal, device: FakeDevice, *, reverted: bool
) -> None:
    steps.preflight()
    steps.activate()
    device.broken = dict.fromkeys(("confirm", "report", "revert"), NetworkError("no route to host"))
    steps.revert(steps.confirm().msg)
    assert outcome(journal) is Outcome.LOST
    assert steps.resolve().msg.startswith("still lost")
    device.broken.clear()
    if reverted:
        device._revert()
    step = steps.resolve()
    assert (device.serves, outcome(journal)) == (OLD, Outcome.REVERTED)
    assert ("had gone back by itself" if reverted else "was brought back now") in step.msg
    assert journal.read().tally().failed == 1


def test_a_release_that_is_slower_than_the_version_before_goes_back(
    steps: HostSteps, journal: Journal, device: FakeDevice
) -> None:
    device.answers_in_ms[NEW] = 60.0
    turn(steps)
    assert outcome(journal) is Outcome.REVERTED
    known = journal.state().hosts["a"]
    assert "slower: p50_ms is 60, 3.00 times worse than 20 before" in known.reason
    assert (known.metrics_before["p50_ms"], known.metrics_after["p50_ms"]) == (20, 60)
    assert [each.name for each in known.criteria if each.breached] == ["slower"]


def test_a_slower_host_that_is_throttled_is_set_aside(steps: HostSteps, journal: Journal, device: FakeDevice) -> None:
    device.answers_in_ms[NEW], device.throttled = 60.0, True
    turn(steps)
    assert outcome(journal) is Outcome.ENVIRONMENT
    assert device.serves == OLD
    assert journal.state().stopped is None


def test_what_was_measured_before_outlives_the_process_that_measured_it(
    journal: Journal, device: FakeDevice, ticking
) -> None:
    device.answers_in_ms[NEW] = 60.0
    clock = Clock(ticking.monotonic, ticking.sleep)
    for name in ("preflight", "stage", "activate"):
        assert not getattr(HostSteps("a", journal, device, lambda: device, clock), name)().failed
    step = HostSteps("a", journal, device, lambda: device, clock).gate()
    assert step.failed
    assert "3.00 times worse" in step.msg


def test_a_host_is_held_to_untouched_ones_that_were_asked_before_its_activation(
    journal: Journal, device: FakeDevice, release: Release, ticking
) -> None:
    """Everything becomes slower with the activation: for b, which nobody touched, as well."""
    other = FakeDevice(release)
    asked: list[str] = []

    def peers(name: str) -> FakeDevice:
        asked.append(name)
        return other

    clock = Clock(ticking.monotonic, ticking.sleep)

    def step(name: str) -> Step:
        return getattr(HostSteps("a", journal, device, lambda: device, clock, peers=peers), name)()

    for name in ("preflight", "stage", "activate"):
        assert not step(name).failed
    assert set(asked) == {"b"}
    assert baseline.load_controls(journal.folder, "a")["b"].asked == 30
    device.answers_in_ms[release.bundle] = other.answers_in_ms[OLD] = 60.0
    assert not step("gate").failed
    slower = next(each for each in journal.read().hosts["a"].criteria if each.name == "slower")
    assert "untouched hosts became 3.00 times worse" in slower.reason
    assert other.changes() == []


def test_a_release_that_alone_is_slower_fails_beside_untouched_hosts(
    journal: Journal, device: FakeDevice, release: Release, ticking
) -> None:
    other = FakeDevice(release)
    clock = Clock(ticking.monotonic, ticking.sleep)
    device.answers_in_ms[release.bundle] = 60.0
    for name in ("preflight", "stage", "activate", "gate"):
        done = getattr(HostSteps("a", journal, device, lambda: device, clock, peers=lambda _: other), name)()
    assert done.failed
    assert "untouched hosts 1.00 times meanwhile" in done.msg
