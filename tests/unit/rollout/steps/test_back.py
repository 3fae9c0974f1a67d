"""The way back: drills, rollbacks, lost hosts."""

from __future__ import annotations

import pytest
from rollout_device import NEW, OLD, FakeDevice, ask, outcome, said, whole_turn

from hedgerow.errors import NetworkError
from hedgerow.rollout import requests
from hedgerow.rollout.events import Outcome, RequestKind
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.steps import HostSteps


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
