"""One host's turn: preflight, activation, gate, confirmation, and what each verdict leads to."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest
from rollout_device import NEW, OLD, FakeDevice, outcome, turn

from hedgerow.errors import NetworkError
from hedgerow.rollout import holds
from hedgerow.rollout.events import HostFinished, HostStarted, Outcome
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.remote import Completed
from hedgerow.rollout.steps import Clock, HostSteps


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
