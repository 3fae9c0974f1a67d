"""What comes before a turn: staging with its causes that pass, and whether the host is fit."""

from __future__ import annotations

import pytest
from rollout_device import OLD, FakeDevice, said, whole_turn

from hedgerow.rollout.events import HostRetried
from hedgerow.rollout.gate.samples import Look
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.steps import Clock, HostSteps


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
