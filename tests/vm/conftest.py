"""A virtual machine of a fleet, and what an operator, a kernel and a pulled plug do to it.

    HEDGEROW_TEST_INVENTORY=INV pytest -m vm tests/vm

INV is a fleet with a virtual machine that is converged and switched on, as the Molecule scenario `vm` makes it. Tests
of this folder reboot it and cut its power; each leaves it switched on and well.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hedgerow import inventory as inventories
from hedgerow import ssh
from hedgerow.emulator.vm.fleet import VirtualFleet
from hedgerow.emulator.vm.host import VirtualHost
from hedgerow.errors import DeviceError, NetworkError
from hedgerow.inventory import Host, Inventory

ROOT = Path(__file__).parents[2]
# Software emulation beside other work: half a minute to boot when nothing else runs.
BOOT_S = 400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.vm)


class Machine:
    """The virtual machine under test: through its agent as root, through SSH as an operator, by its plug."""

    def __init__(self, inventory: Inventory, host: Host) -> None:
        self.inventory, self.host, self.name = inventory, host, host.name
        self.fleet = VirtualFleet(inventory)

    @property
    def board(self) -> VirtualHost:
        return self.fleet.hosts[self.name]

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """A shell line as root, by the guest agent: no network, sshd or firewall is asked."""
        return self.fleet.exec(self.name, ["sh", "-c", command])

    def root(self, command: str) -> str:
        done = self.run(command)
        assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
        return done.stdout

    def answers(self) -> bool:
        """Whether an operator gets in."""
        try:
            return ssh.run(self.inventory, self.host, "true", timeout_s=30).returncode == 0
        except NetworkError:
            return False

    @property
    def boot_id(self) -> str:
        return self.root("cat /proc/sys/kernel/random/boot_id").strip()

    def cut(self) -> None:
        """Pull the plug."""
        self.fleet.power(self.name, "off")

    def give(self) -> None:
        """Put it in again, and wait for the boot; units that failed are the test's affair."""
        try:
            self.fleet.power(self.name, "on")
        except DeviceError as error:
            assert "these units failed" in error.what, error  # noqa: PT017 - any other error is one
        self.until(self.answers)

    def reset_by(self, command: str) -> None:
        """Run what ends this boot in a moment, and wait for the next one."""
        before = self.boot_id
        self.root(f"systemd-run --quiet --on-active=1 --timer-property=AccuracySec=100ms sh -c '{command}'")

        def is_back() -> bool:
            try:
                return self.boot_id != before and self.answers()
            except (DeviceError, AssertionError):
                return False

        self.until(is_back)
        self.root("systemctl is-system-running --wait || true")

    def until(self, condition: Callable[[], bool], *, within_s: float = BOOT_S) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            state = self.board.state()
            assert time.monotonic() < deadline, f"not within {within_s} s; {state}"
            time.sleep(1)

    def play(self, *words: str, limit: bool = True) -> subprocess.CompletedProcess[str]:
        with self.start(*words, limit=limit) as running:
            said, _ = running.communicate(timeout=3600)
        return subprocess.CompletedProcess(words, running.returncode, said, "")

    def start(self, *words: str, limit: bool = True) -> subprocess.Popen[str]:
        """A playbook in a process group of its own."""
        command = [tool("ansible-playbook"), "-i", str(self.inventory.path), *words]
        return subprocess.Popen(
            [*command, *(["--limit", self.name] if limit else [])],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", "NO_COLOR": "1", "ANSIBLE_TIMEOUT": "60"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def changed(self, done: subprocess.CompletedProcess[str]) -> int:
        """How many tasks changed something, of a play that went well."""
        assert done.returncode == 0, done.stdout[-4000:]
        (found,) = re.findall(rf"^{self.name}\s+: ok=\d+\s+changed=(\d+)", done.stdout, re.MULTILINE)
        return int(found)

    def command(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """A program of this virtual environment, as an operator types it."""
        return subprocess.run([tool(name), *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=1800)


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


@pytest.fixture(scope="session")
def vm() -> Machine:
    path = os.environ.get("HEDGEROW_TEST_INVENTORY")
    if path is None:
        pytest.skip("HEDGEROW_TEST_INVENTORY names no fleet with a virtual machine; `make test-vm` makes one")
    inventory = inventories.load(Path(path))
    found = [host for host in inventory.hosts.values() if host.virtual_machine]
    if not found:
        pytest.skip("no host of this fleet is a virtual machine: only a kernel of its own shows it")
    machine = Machine(inventory, found[0])
    if machine.board.state().power != "on":
        pytest.skip(f"{machine.name} is switched off")
    return machine
