"""After other sizes and an hour between saves: nothing but a shutdown and critical messages write the journal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def log(host, text, priority="info"):
    host.root(f"echo '{text}' | systemd-cat --identifier=hedgerow-test --priority={priority}")


def saved(host, text):
    return text in host.root("journalctl --directory=/var/log/journal --identifier=hedgerow-test --output=cat")


def wait(check, within_s=60.0):
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.5)


def boot_id(host):
    """When PID 1 started (a container's boot); None while the host is down or on its way."""
    try:
        done = host.run("cat /proc/1/stat && systemctl is-system-running")
    except RuntimeError:  # ssh itself failed
        return None
    return done.stdout.split()[21] if done.stdout.endswith(("running\n", "degraded\n")) else None


@pytest.fixture(scope="module")
def restarted(pi):
    """One Pi: lines before an orderly reboot, then lines before a power cut."""
    marks = {name: f"{name} {time.time()}" for name in ("reboot", "critical", "led to it", "cut")}
    log(pi, marks["reboot"])
    before = boot_id(pi)
    pi.as_root("systemctl reboot")
    wait(lambda: boot_id(pi) not in {None, before})
    log(pi, marks["led to it"])
    log(pi, marks["critical"], "crit")
    wait(lambda: saved(pi, marks["critical"]))
    log(pi, marks["cut"])
    before = boot_id(pi)
    command = [sys.executable, "-m", "hedgerow.cli", "emulate", "power", "-i", os.environ["HEDGEROW_TEST_INVENTORY"],
               pi.name, "cycle"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    wait(lambda: boot_id(pi) not in {None, before})
    return marks


def test_the_new_sizes_are_in_effect(host):
    shown = host.root("systemd-analyze cat-config systemd/journald.conf")
    assert re.findall(r"^SystemMaxUse=(\S+)", shown, re.MULTILINE)[-1] == "64M"
    assert re.findall(r"^RuntimeMaxUse=(\S+)", shown, re.MULTILINE)[-1] == "16M"
    assert "1h" in host.root("systemctl show -p TimersMonotonic --value hedgerow-journal-save.timer")


def test_f32_the_log_before_a_reboot_is_there_after_it(pi, restarted):
    assert saved(pi, restarted["reboot"])


def test_f32_a_power_cut_costs_what_came_since_the_last_save_and_nothing_before_a_critical_message(pi, restarted):
    assert saved(pi, restarted["led to it"])
    assert saved(pi, restarted["critical"])
    assert not saved(pi, restarted["cut"]), "it was in memory alone: had it been saved, the card had been written to"


@pytest.mark.usefixtures("restarted")
def test_a_boot_returns_to_memory(pi):
    before = pi.root("find /var/log/journal -type f -printf '%p %T@ %b\\n' | sort")
    log(pi, "after the boots")
    pi.root("journalctl --sync")
    assert pi.root("find /var/log/journal -type f -printf '%p %T@ %b\\n' | sort") == before
