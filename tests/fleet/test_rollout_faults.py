"""What breaks while a release goes out: hosts, the registry, disks, certificates, and whoever rolls out."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import rollout_fleet as fleets

from hedgerow import paths
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import DeviceNames, Profile
from hedgerow.rollout import records

pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.usefixtures("sound")]

REGISTRY = "gw-copsewood"


def others(woods: fleets.Fleet, host: str) -> list[str]:
    return [name for name in woods.pis if name != host]


def test_a_host_switched_off_in_its_activation_is_counted_and_resolved_when_it_returns(
    woods, tmp_path: Path, wait
) -> None:
    before, bundle = woods.serves(), woods.release()
    # A site with one host less would spare fewer at one time, and pass over one of the last wave.
    policy = {"waves": [1, 7], "budgets": {"failures": 1}, "sites": {"min_available": 0}, "confirm_within_s": 90}
    with woods.running(bundle, tmp_path / "log", **policy, soak={"passes": 10, "deadline_s": 40}) as run:
        off = run.until(lambda state: next(iter(state.turns), None))
        with fleets.Callers(woods, others(woods, off)) as callers:
            woods.power(off, "off")
            try:
                code = run.wait()
            finally:
                woods.power(off, "on")
    assert (code != 0, woods.state().phase) == (True, "partial"), run.text
    assert woods.outcomes() == dict.fromkeys(woods.pis, "confirmed") | {off: "lost"}
    callers.none_failed()
    # Unconfirmed, it goes back by itself; what it serves until then it serves well.
    wait(lambda: woods.served_by(off) == before[off], within_s=120)
    resolved = woods.hedgerow("rollout", "resume")
    assert woods.outcomes()[off] == "reverted", resolved.stdout + resolved.stderr
    assert not woods.state().lost


def test_a_registry_that_is_gone_is_tried_again_then_ends_the_rollout_cleanly(woods, tmp_path: Path) -> None:
    bundle = woods.release()
    before = woods.ready(woods.release())
    with (
        fleets.Callers(woods, woods.pis) as callers,
        woods.running(bundle, tmp_path / "log", waves=[1, 7], soak={"passes": 8, "deadline_s": 90}) as run,
    ):
        first = run.until(lambda state: next((n for n, h in state.hosts.items() if h.activated_s is not None), None))
        woods.on(REGISTRY, "systemctl stop nginx")
        try:
            code = run.wait()
            state = woods.state()
        finally:
            woods.on(REGISTRY, "systemctl start nginx")
    assert code == 2, run.text
    callers.none_failed()
    assert woods.serves() == dict.fromkeys(woods.pis, before) | {first: bundle}, "whoever has it keeps it: it is well"
    assert state.stopped is not None
    assert "3 tries" in state.stopped
    assert sum(host.retries for host in state.hosts.values()) >= 2
    assert {woods.outcomes()[name] for name in others(woods, first)} <= {"skipped", None}
    # The same command goes on once the registry is back.
    done = woods.rollout(bundle, waves=[8])
    assert done.returncode == 0, done.stdout + done.stderr
    assert woods.serves() == dict.fromkeys(woods.pis, bundle)


def test_a_controller_that_vanishes_after_an_activation_leaves_a_device_that_goes_back(
    woods, tmp_path: Path, wait
) -> None:
    before, bundle = woods.serves(), woods.release()
    with (
        fleets.Callers(woods, woods.pis) as callers,
        woods.running(
            bundle,
            tmp_path / "log",
            waves=[1, 7],
            soak={"passes": 40, "interval_s": 0.5, "deadline_s": 25},
            confirm_within_s=30,
        ) as run,
    ):
        left = run.until(lambda state: next((n for n, h in state.hosts.items() if h.activated_s is not None), None))
        run.kill()
        assert woods.served_by(left) == bundle
        wait(lambda: woods.serves() == before)
    callers.none_failed()
    assert "nobody confirmed" in woods.events(left)[-1]["reason"]
    done = woods.rollout(bundle, waves=[8])
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(woods.outcomes().values()) == {"confirmed"}


def _started(state: Any) -> bool:
    return bool(state.turns)


def _staged(state: Any) -> bool:
    return any(host.staged_s is not None for host in state.hosts.values())


def _activated(state: Any) -> bool:
    return any(host.activated_s is not None for host in state.hosts.values())


def _confirmed(state: Any) -> bool:
    return bool(state.holding)


def _second(state: Any) -> bool:
    return state.wave == 2 and len(state.turns) > 0


POINTS = [_staged, _started, _activated, _confirmed, _second]


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.__name__.strip("_"))
def test_a_controller_killed_anywhere_comes_to_the_same_end(woods, tmp_path: Path, point: Callable[[Any], Any]) -> None:
    """Three hosts, so that each point is passed once; the other five must not notice."""
    before, bundle = woods.serves(), woods.release()
    few = woods.pis[:3]
    with fleets.Callers(woods, woods.pis) as callers:
        with woods.running(bundle, tmp_path / "log", limit=few, waves=[1, 2]) as run:
            run.until(point)
            run.kill()
            cut = run.state()
        assert cut is not None
        finished = {name: host.finished_at for name, host in cut.hosts.items() if host.outcome is not None}
        done = woods.rollout(bundle, limit=few, waves=[1, 2])
    assert done.returncode == 0, done.stdout + done.stderr
    callers.none_failed()
    assert woods.serves() == before | dict.fromkeys(few, bundle)
    state = woods.state()
    assert {name: str(state.hosts[name].outcome) for name in few} == dict.fromkeys(few, "confirmed")
    assert {name: state.hosts[name].finished_at for name in finished} == finished, "a finished host had a second turn"


def test_a_freeze_that_begins_in_a_wave_lets_its_hosts_finish_and_starts_nobody(woods) -> None:
    bundle = woods.release()
    now = datetime.now(UTC).replace(microsecond=0)
    begins, ends = now + timedelta(seconds=20), now + timedelta(seconds=60)
    freeze = [{"from": begins.isoformat(), "to": ends.isoformat(), "reason": "a test"}]
    # Its first host is still watched when the freeze begins.
    soak = {"passes": 20, "interval_s": 1, "deadline_s": 120}
    with fleets.Callers(woods, woods.pis) as callers:
        done = woods.rollout(bundle, waves=[1, 7], freeze=freeze, soak=soak)
    assert done.returncode == 0, done.stdout + done.stderr
    callers.none_failed()
    assert woods.serves() == dict.fromkeys(woods.pis, bundle)
    events = woods.journal()
    started = [datetime.fromisoformat(each.at) for each in events if isinstance(each, records.HostStarted)]
    finished = [datetime.fromisoformat(each.at) for each in events if isinstance(each, records.HostFinished)]
    assert [at for at in started if begins <= at < ends] == []
    assert [at for at in finished if begins <= at < ends], "nobody was in the middle of a turn: the test shows nothing"
    assert [each.code for each in events if isinstance(each, records.Waiting)] == ["freeze"]


def test_a_disk_that_is_full_costs_one_host_its_turn_and_nothing_else(woods) -> None:
    """Containers share this machine's disk, so what is kept free on the host is what fills it."""
    before, bundle = woods.serves(), woods.release()
    full = woods.pis[1]
    config = "/etc/hedgerow/device.yml"
    woods.on(full, f"cp -p {config} {config}.test && sed -i 's/^reserve_mb:.*/reserve_mb: 900000000/' {config}")
    woods.on(full, f"grep -q 'reserve_mb: 900000000' {config} || echo 'reserve_mb: 900000000' >> {config}")
    try:
        with fleets.Callers(woods, woods.pis) as callers:
            done = woods.rollout(bundle, waves=[8], budgets={"failures": 1})
    finally:
        woods.on(full, f"mv {config}.test {config}")
    assert (done.returncode != 0, woods.state().phase) == (True, "partial"), done.stdout + done.stderr
    callers.none_failed()
    assert woods.outcomes() == dict.fromkeys(woods.pis, "confirmed") | {full: "refused"}
    assert "MB" in woods.state().hosts[full].reason
    assert woods.serves() == dict.fromkeys(woods.pis, bundle) | {full: before[full]}


@pytest.fixture
def expired(woods):
    """One host whose certificate ended yesterday; its own is back afterwards."""
    host = woods.inventory.hosts[woods.pis[2]]
    folder = "/var/lib/hedgerow/identity"
    request = woods.on(host.name, f"openssl req -new -key {folder}/device.key -subj /CN={host.serial}")
    names = DeviceNames(fleet=woods.inventory.fleet, site=host.site, host=host.name, serial=host.serial)
    ca = FleetCA.open(paths.fleet_dir(woods.inventory.fleet))
    pem = ca.sign_csr(request, Profile.DEVICE, names, days=1, now=datetime.now(UTC) - timedelta(days=2))
    woods.on(host.name, f"cp -p {folder}/device.crt {folder}/device.crt.test")
    try:
        woods.on(host.name, f"cat > {folder}/device.crt <<'PEM'\n{pem}PEM\nsystemctl restart hedgerow-server")
        yield host.name
    finally:
        woods.on(host.name, f"mv {folder}/device.crt.test {folder}/device.crt; systemctl restart hedgerow-server")


def test_a_certificate_that_has_expired_costs_one_host_its_turn_and_nothing_else(woods, expired: str) -> None:
    rest, bundle = others(woods, expired), woods.release()
    with fleets.Callers(woods, rest) as callers:
        # Its users cannot reach it, so that its site would spare fewer of the others at one time.
        done = woods.rollout(bundle, waves=[8], budgets={"failures": 1}, sites={"min_available": 0})
    assert (done.returncode != 0, woods.state().phase) == (True, "partial"), done.stdout + done.stderr
    callers.none_failed()
    assert woods.outcomes() == dict.fromkeys(rest, "confirmed") | {expired: "refused"}
    assert "certificate" in woods.state().hosts[expired].reason
    assert {name: woods.served_by(name) for name in rest} == dict.fromkeys(rest, bundle)


def test_ctrl_c_lets_go_of_the_lease_or_is_taken_over(woods, tmp_path: Path) -> None:
    """Whoever interrupts the playbook leaves a rollout that the same command goes on with."""
    bundle = woods.release()
    with woods.running(bundle, tmp_path / "log", waves=[1, 7], soak={"passes": 10, "deadline_s": 90}) as run:
        run.until(_activated)
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.wait() != 0
    done = woods.rollout(bundle, waves=[8])
    assert done.returncode == 0, done.stdout + done.stderr
    assert woods.serves() == dict.fromkeys(woods.pis, bundle)
