"""What ends a turn from outside: stops, freezes, a run that was cut off."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from rollout_device import NEW, OLD, FakeDevice, ask, outcome, whole_turn

from hedgerow.rollout import requests
from hedgerow.rollout.events import HostJudged, Outcome, RequestKind, Resumed
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.policy import parse
from hedgerow.rollout.steps import Clock, HostSteps


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
