"""Rolling updates on a converged fleet of emulated hosts: the real device command, server, registry and TLS."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

GOOD, BETTER, HOT, CUT, LATE = "0.0.1", "0.0.2", "0.0.3", "0.0.4", "0.0.5"
# Neighbours on one machine make each other slower: `tests/fleet/test_rollout_bad.py` compares hosts with their past.
POLICY = {
    "soak": {"passes": 2, "interval_s": 0.5, "deadline_s": 60},
    "gate": {"without": ["slower"]},
    "confirm_within_s": 120,
}


@pytest.fixture(scope="module")
def site(controller):
    """A fleet on which every Pi serves the good model."""
    bundle = controller.publish(GOOD)
    done = rollout(controller, bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    return controller


def rollout(controller, bundle: str, **policy: object):
    return controller.play("rollout.yml", *arguments(bundle, **policy))


def arguments(bundle: str, **policy: object) -> list[str]:
    return ["-e", json.dumps({"bundle": bundle, "rollout_policy": POLICY | policy})]


def changed(done) -> set[str]:
    return set(re.findall(r"^(\S+)\s+: ok=.*changed=[1-9]", done.stdout, re.MULTILINE))


def test_a_good_release_reaches_all_and_a_second_run_changes_nothing(site) -> None:
    bundle = site.publish(BETTER)
    done = rollout(site, bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.serves() == dict.fromkeys(site.pis, bundle)
    assert changed(done) == set(site.pis)
    again = rollout(site, bundle)
    assert (again.returncode, changed(again)) == (0, set())


def test_a_release_that_answers_wrongly_stops_at_the_first_host(site) -> None:
    before = site.serves()
    bundle = site.publish("0.0.66", golden=1.0)
    done = rollout(site, bundle)
    assert done.returncode == 2
    assert "golden" in done.stdout
    assert site.serves() == before
    state = json.loads(site.hedgerow("rollout", "status", "--json").stdout)
    assert (state["phase"], state["counts"]) == ("stopped", {"not_started": len(site.pis) - 1, "reverted": 1})


def first_of(site, bundle: str) -> str:
    return str(json.loads(site.hedgerow("rollout", "plan", bundle, "--json").stdout)["waves"][0][0])


def test_a_host_that_was_hot_before_its_turn_does_not_fail_the_release(site) -> None:
    bundle = site.publish(HOT)
    first = first_of(site, bundle)
    site.hedgerow("emulate", "set", first, "temperature_c=86")
    try:
        done = rollout(site, bundle)
    finally:
        site.hedgerow("emulate", "set", first, "temperature_c=48")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "as before the release: hot" in done.stdout
    assert site.serves() == dict.fromkeys(site.pis, bundle)


@pytest.mark.nightly  # tests/unit/rollout/test_playbook.py has it with the real ansible-playbook
def test_a_host_that_gets_hot_after_its_activation_goes_back(site, tmp_path: Path, wait) -> None:
    before = site.serves()
    bundle = site.publish("0.0.77")
    first = first_of(site, bundle)
    log = tmp_path / "log"
    # Long enough for the heat to be set and for the server to look at its board again.
    watched = {"soak": {"passes": 10, "interval_s": 1, "deadline_s": 60}}
    process = site.start("rollout.yml", *arguments(bundle, **watched), log=log)
    try:
        wait(lambda: "activated in" in log.read_text())
        site.hedgerow("emulate", "set", first, "temperature_c=86")
        code = process.wait(timeout=300)
    finally:
        site.hedgerow("emulate", "set", first, "temperature_c=48")
    assert code == 2
    assert "degraded since the release: hot" in log.read_text()
    assert site.serves() == before


def test_a_controller_that_vanishes_leaves_a_device_that_goes_back_and_a_rollout_that_goes_on(
    site, tmp_path: Path, wait
) -> None:
    before = site.serves()
    bundle = site.publish(CUT)
    log = tmp_path / "log"
    soon = {"soak": POLICY["soak"] | {"deadline_s": 20}, "confirm_within_s": 30}
    process = site.start("rollout.yml", *arguments(bundle, **soon), log=log)
    wait(lambda: "activated in" in log.read_text())
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    state = json.loads(site.hedgerow("rollout", "status", "--json").stdout)
    halfway = [name for name, host in state["hosts"].items() if host["started_at"] and not host["outcome"]]
    assert (state["phase"], state["lease"], len(halfway)) == ("open", None, 1)
    assert site.serves() == before | {halfway[0]: bundle}
    wait(lambda: site.serves() == before)
    done = rollout(site, bundle, **soon)
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.serves() == dict.fromkeys(site.pis, bundle)
    assert json.loads(site.hedgerow("rollout", "status", "--json").stdout)["id"] == state["id"]


@pytest.mark.nightly  # tests/unit/rollout/test_playbook.py has it with the real ansible-playbook
def test_a_host_that_is_off_is_counted_apart_and_updated_when_it_is_back(site, wait) -> None:
    bundle = site.publish(LATE)
    # Of two hosts one is off: by default their site could not spare the other.
    alone = {"sites": {"min_available": 0}}
    off = site.pis[0]
    site.hedgerow("emulate", "power", off, "off")
    try:
        done = rollout(site, bundle, **alone)
    finally:
        site.hedgerow("emulate", "power", off, "on")
    assert done.returncode == 4, done.stdout + done.stderr
    assert f"{len(site.pis) - 1} confirmed, 1 unreachable" in done.stdout
    wait(lambda: site.table()[off]["health"] == "ok")
    assert rollout(site, bundle, **alone).returncode == 0
    assert site.serves() == dict.fromkeys(site.pis, bundle)


def test_one_host_is_rolled_back(site) -> None:
    before = site.serves()
    bundle = site.publish("0.0.88")
    assert rollout(site, bundle).returncode == 0
    done = site.play("rollback.yml", "-e", f"target={site.pis[0]}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.serves() == dict.fromkeys(site.pis, bundle) | {site.pis[0]: before[site.pis[0]]}
    refused = site.play("rollback.yml", "-e", f"target={site.pis[0]}")
    assert refused.returncode == 2
    assert "no version" in refused.stdout
