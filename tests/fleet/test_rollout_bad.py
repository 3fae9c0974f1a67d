"""A release that is not fine: it stops where it does least harm, and what it touched goes back."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self

import pytest
import rollout_fleet as fleets

pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.usefixtures("sound")]

HOT, COOL = {"temperature_c": 86}, {"temperature_c": 48}
# Undervoltage and throttling now and since boot (vcgencmd get_throttled).
WEAK, STRONG = {"throttled": "0x50005"}, {"throttled": "0x0"}


def test_one_that_answers_wrongly_stops_at_the_canary_and_nobody_served_it(woods) -> None:
    before, bundle = woods.serves(), woods.release(golden=-1.0)
    with fleets.Callers(woods, woods.pis) as callers:
        done = woods.rollout(bundle, waves=[1, 7])
    assert done.returncode == 2, done.stdout + done.stderr
    assert "golden" in done.stdout
    assert woods.serves() == before
    callers.none_failed()
    assert {len(numbers) for numbers in callers.numbers.values()} == {1}, "the golden inputs come before the switch"
    assert woods.state().phase == "stopped"
    assert sorted(str(outcome) for outcome in woods.outcomes().values()) == ["None"] * 7 + ["reverted"]


def test_one_that_is_slower_stops_by_comparison_and_goes_back(woods) -> None:
    """Right answers, no limit broken: only the host's own past tells."""
    before, bundle = woods.serves(), woods.release(products=60)
    with fleets.Callers(woods, woods.pis) as callers:
        soak = {"passes": 3, "interval_s": 1, "deadline_s": 60}
        done = woods.rollout(bundle, waves=[1, 7], gate={"probes": fleets.PROBES}, soak=soak)
    assert done.returncode == 2, done.stdout + done.stderr
    assert woods.serves() == before
    callers.none_failed()
    hosts = {name: host for name, host in woods.state().hosts.items() if host.started_at is not None}
    assert len(hosts) == 1
    (canary,) = hosts.values()
    assert (str(canary.outcome), canary.verdict) == ("reverted", "fail")
    assert [result.name for result in canary.criteria if result.breached] == ["slower"]
    assert canary.metrics_after["p50_ms"] > 2 * canary.metrics_before["p50_ms"]


class Weather(threading.Thread):
    """Plays boards that a release is too much for: they change while they serve it, and recover when they do not."""

    def __init__(self, woods: fleets.Fleet, bundle: str, hosts: list[str], bad: dict, well: dict) -> None:
        super().__init__()
        self._woods, self._bundle, self._hosts, self._bad, self._well = woods, bundle, hosts, bad, well
        self._over = threading.Event()
        self.struck: list[str] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        for host in self._hosts:
            self._woods.board(host, **self._well)

    def run(self) -> None:
        while not self._over.wait(0.2):
            for host in self._hosts:
                serves_it = self._woods.served_by(host) == self._bundle
                if serves_it and host not in self.struck:
                    self.struck.append(host)
                    self._woods.board(host, **self._bad)


def test_one_that_only_heats_passively_cooled_hosts_is_caught_by_the_stratified_canary(woods) -> None:
    """Two of eight: a first wave of two at random misses them more often than not (15 of 28)."""
    before, bundle = woods.serves(), woods.release()
    watched = {"passes": 10, "interval_s": 1, "deadline_s": 90}
    with fleets.Callers(woods, woods.pis) as callers, Weather(woods, bundle, woods.passive(), HOT, COOL) as weather:
        done = woods.rollout(bundle, waves=[2, 6], stratify=["cooling"], soak=watched)
    assert done.returncode == 2, done.stdout + done.stderr
    state = woods.state()
    assert set(state.plan.waves[0]) & set(woods.passive())
    assert not set(state.plan.waves[0]) <= set(woods.passive())
    assert len(weather.struck) == 1
    assert woods.outcomes()[weather.struck[0]] == "reverted"
    assert all(state.hosts[name].started_at is None for name in state.plan.waves[1])
    assert woods.serves() == before
    callers.none_failed()


def test_a_host_that_throttles_is_set_aside_and_the_release_is_not_blamed(woods) -> None:
    before, bundle = woods.serves(), woods.release()
    weak = woods.pis[0]
    # Looks for longer than it takes to see that it serves the release and to play its board, also on a busy machine.
    watched = {"passes": 20, "interval_s": 1, "deadline_s": 150}
    with fleets.Callers(woods, woods.pis) as callers, Weather(woods, bundle, [weak], WEAK, STRONG) as weather:
        # Those that are well wait for its verdict before they are confirmed: the wave goes step by step.
        done = woods.rollout(bundle, waves=[8], soak=watched)
    assert weather.struck == [weak]
    assert (done.returncode != 0, woods.state().phase) == (True, "partial"), done.stdout + done.stderr
    assert woods.outcomes() == dict.fromkeys(woods.pis, "confirmed") | {weak: "environment"}
    assert woods.state().stopped is None
    assert woods.serves() == dict.fromkeys(woods.pis, bundle) | {weak: before[weak]}
    callers.none_failed()


def test_one_that_gets_worse_after_its_confirmation_takes_everybody_back(woods, tmp_path: Path, wait) -> None:
    """A breach during a pause between waves: hosts that have the release are watched all along."""
    bundle = woods.release()
    before = woods.ready(woods.release())
    with (
        fleets.Callers(woods, woods.pis) as callers,
        woods.running(bundle, tmp_path / "log", waves=[2, 6], approvals=[
            {"before_wave": 2, "by": ["nobody"], "unsigned": True}
        ]) as run,
    ):  # fmt: skip
        first, second = run.until(lambda state: state.waiting and state.plan.waves[0])
        woods.board(first, **HOT)
        try:
            assert run.wait() == 2, run.text
        finally:
            woods.board(first, **COOL)
    assert {woods.outcomes()[first], woods.outcomes()[second]} == {"reverted", "undone"}
    wait(lambda: woods.serves() == dict.fromkeys(woods.pis, before))
    callers.none_failed()
