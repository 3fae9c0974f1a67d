"""A host is held to what it was before, and to untouched hosts."""

from __future__ import annotations

from rollout_device import NEW, OLD, FakeDevice, outcome, turn

from hedgerow.rollout.events import Outcome
from hedgerow.rollout.gate import baseline
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.plan import Release
from hedgerow.rollout.steps import Clock, HostSteps, Step


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
