"""Role `hardening` on a kernel of its own: settings and rules after a real reboot, and the plug pulled while it works.

    HEDGEROW_TEST_INVENTORY=INV pytest -m fleet tests/vm/test_hardening.py

INV is a fleet with a virtual machine that is converged and switched on. What every host shows, this one included, is in
`tests/host/test_hardening.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hedgerow import inventory as inventories
from hedgerow import ssh
from hedgerow.errors import NetworkError
from hedgerow.inventory import Host, Inventory

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SSHD = "/etc/ssh/sshd_config.d/00-hedgerow.conf"
ARMED = "/var/lib/hedgerow/guard/hardening/armed.json"
BOOT_S = 300  # software emulation beside other work


class Machine:
    """One virtual machine: by SSH as an operator, by the guest agent as its console."""

    def __init__(self, fleet: Inventory, host: Host) -> None:
        self.fleet, self.host = fleet, host

    def root(self, command: str) -> str:
        quoted = command.replace("'", "'\\''")
        done = ssh.run(self.fleet, self.host, f"sudo sh -c '{quoted}'", timeout_s=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def answers(self) -> bool:
        try:
            return ssh.run(self.fleet, self.host, "true", timeout_s=20).returncode == 0
        except NetworkError:
            return False

    def hedgerow(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [_tool("hedgerow"), "emulate", words[0], "-i", str(self.fleet.path), *words[1:]]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400)

    def power(self, state: str) -> None:
        done = self.hedgerow("power", self.host.name, state)
        assert done.returncode == 0, done.stderr

    def start_hardening(self, **variables: object) -> subprocess.Popen[str]:
        command = [_tool("ansible-playbook"), "-i", str(self.fleet.path), "playbooks/site.yml", "--tags", "hardening",
                   "--limit", self.host.name, "-e", json.dumps(variables)]  # fmt: skip
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def harden(self, **variables: object) -> str:
        running = self.start_hardening(**variables)
        said, _ = running.communicate(timeout=600)
        assert running.returncode == 0, said
        return said


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def wait(condition: Callable[[], bool], *, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(1)


@pytest.fixture(scope="module")
def machine() -> Machine:
    path = os.environ.get("HEDGEROW_TEST_INVENTORY")
    if path is None:
        pytest.skip("HEDGEROW_TEST_INVENTORY names no converged fleet")
    fleet = inventories.load(Path(path))
    found = [host for host in fleet.hosts.values() if host.vars.get("virtual_machine")]
    if not found:
        pytest.skip("no host of this fleet is a virtual machine: only a kernel of its own shows it")
    machine = Machine(fleet, found[0])
    if not machine.answers():
        pytest.skip(f"{machine.host.name} is switched off")
    return machine


@pytest.fixture(scope="module")
def rebooted(machine: Machine) -> Machine:
    boot = machine.root("cat /proc/sys/kernel/random/boot_id")
    assert machine.hedgerow("exec", machine.host.name, "--", "systemctl", "reboot").returncode == 0
    wait(lambda: machine.answers() and machine.root("cat /proc/sys/kernel/random/boot_id") != boot, within_s=BOOT_S)
    return machine


def test_every_kernel_setting_holds_after_a_reboot(rebooted: Machine) -> None:
    text = rebooted.root("cat /etc/sysctl.d/99-zz-hedgerow.conf")
    wanted = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line and not line.startswith("#"))
    assert "kernel.kptr_restrict" in wanted, "nothing is left out on a kernel of its own"
    live = {}
    for line in rebooted.root(f"for key in {' '.join(wanted)}; do sysctl -e $key; done").splitlines():
        key, _, value = line.partition(" = ")
        live[key] = value
    assert live
    assert {key: value for key, value in live.items() if value != wanted[key]} == {}


def test_rules_stand_before_sshd_and_the_network(rebooted: Machine) -> None:
    assert "policy drop" in rebooted.root("nft list chain inet hedgerow input")

    def entered(unit: str) -> int:
        return int(rebooted.root(f"systemctl show -p ActiveEnterTimestampMonotonic --value {unit}"))

    assert 0 < entered("nftables.service") < entered("ssh.service")
    assert entered("nftables.service") <= entered("network-pre.target") or entered("network-pre.target") == 0


def test_a_drop_is_in_the_journal(rebooted: Machine) -> None:
    rebooted.root("curl --silent --max-time 5 http://198.51.100.7/ || test $? = 7")
    assert "DST=198.51.100.7" in rebooted.root("journalctl -k --no-pager -g 'hedgerow drops out' | tail -n 3")


def test_converging_again_changes_nothing(rebooted: Machine) -> None:
    assert "changed=0" in rebooted.harden()


def test_the_plug_pulled_before_the_confirmation_leaves_the_old_settings_and_a_way_in(machine: Machine) -> None:
    before = machine.root(f"cat {SSHD}")
    running = machine.start_hardening(hardening_ssh_auth_tries=6)
    try:
        # The guest agent, not SSH: what is being changed is SSH.
        wait(
            lambda: machine.hedgerow("exec", machine.host.name, "--", "test", "-e", ARMED).returncode == 0, within_s=200
        )
        machine.power("off")
    finally:
        running.kill()
        running.communicate()
    machine.power("on")
    wait(machine.answers, within_s=BOOT_S)
    # Between arming and confirming everything is undone; a confirmation that came first counts whole.
    assert machine.root("ls /var/lib/hedgerow/guard").split() == []
    after = machine.root(f"cat {SSHD}")
    assert after in {before, before.replace("MaxAuthTries 4", "MaxAuthTries 6")}
    assert machine.root("systemctl is-system-running || true").strip() in {"running", "degraded", "starting"}
    machine.harden()
    assert machine.root(f"cat {SSHD}") == before
