"""The plug is pulled again and again in the middle of a host's first converge; the next run finishes what was begun.

Needs the snapshot `contacted` of the scenario: a host that had its first contact and nothing else.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

# Where the plug is pulled: so many seconds after a role's first task was named. Packages are unpacked, boot files and
# pins written, a runtime installed when that happens; every run but the first begins with what the one before left.
CUTS = (("base", 12.0), ("os_pinning", 4.0), ("hat", 6.0), ("hardening", 3.0), ("inference_runtime", 15.0))


@pytest.fixture(scope="module")
def fresh(vm):
    if "contacted" not in vm.board.snapshots():
        pytest.skip("there is no snapshot `contacted`; `make test-vm` makes it")
    vm.fleet.restore(vm.name, "contacted")
    return vm


@pytest.fixture(scope="module")
def survivor(fresh):
    """The host after all cuts; nothing repaired it yet but its own boots."""
    for role, seconds in CUTS:
        _cut_in(fresh, role, seconds)
    return fresh


def _cut_in(vm, role: str, seconds: float) -> None:
    running = vm.start("playbooks/site.yml")
    try:
        for line in running.stdout:
            if line.startswith(f"TASK [{role} :"):
                time.sleep(seconds)
                vm.cut()
                break
        else:
            pytest.fail(f"the converge ended before role {role} began, code {running.wait()}")
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.stdout.close()
        running.wait()
    vm.give()


def test_it_boots_after_every_cut_and_lets_the_operator_in(survivor):
    assert survivor.answers()
    assert survivor.root("findmnt --noheadings --output OPTIONS /").startswith("rw")


def test_the_next_converge_heals_it(survivor):
    done = survivor.play("playbooks/site.yml")
    assert survivor.changed(done) > 0
    assert survivor.root("dpkg --audit") == ""
    assert survivor.root("systemctl is-system-running || true").strip() == "running"


def test_and_the_one_after_that_has_nothing_to_do(survivor):
    assert survivor.changed(survivor.play("playbooks/site.yml")) == 0


def test_no_half_written_file_is_left(survivor):
    assert survivor.root("find /etc /boot/firmware /opt/hedgerow -name '.*.new' -o -name '*.hedgerow-new'") == ""
    survivor.reset_by("systemctl reboot")
    assert survivor.root("systemctl is-system-running || true").strip() == "running"
    assert survivor.root("systemctl is-active hedgerow-server").strip() == "active"
