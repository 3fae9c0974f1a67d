"""The hosts that `tests/host` asks: whatever converged fleet HEDGEROW_TEST_INVENTORY names, emulated or real.

    HEDGEROW_TEST_INVENTORY=inventory/mine pytest -m fleet tests/host
    HEDGEROW_TEST_HOSTS=pi-1,pi-2 …        only these hosts of it (`make hil HOSTS=…` sets both)

Fixtures: `host` (every host), `pi` (every Pi), `gateway` (every gateway): each test that takes one runs once a host.
A test that a container or virtual machine cannot show calls `not_in_a_container` or `only_on_a_board` with the
reason; it is then skipped with that reason and never passes.
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import testinfra

from hedgerow import inventory as inventories
from hedgerow.inventory import Host, Inventory

_KINDS = {"host": "all", "pi": "pis", "gateway": "gateways"}
_NO_FLEET = "HEDGEROW_TEST_INVENTORY names no converged fleet"


@dataclass(frozen=True)
class Target:
    """One host under test: what the inventory says of it, and a connection as the admin user."""

    fleet: Inventory
    entry: Host
    shell: Any

    @property
    def name(self) -> str:
        return self.entry.name

    def var(self, name: str, default: Any = None) -> Any:
        """A variable of the inventory, unrendered."""
        return self.entry.vars.get(name, default)

    def run(self, command: str) -> Any:
        """Run a shell line as the admin user; has `rc`, `stdout` and `stderr`."""
        return self.shell.run(command)

    def root(self, command: str) -> str:
        """Standard output of a shell line run as root, which has to succeed."""
        done = self.shell.run("sudo sh -c %s", command)
        assert done.rc == 0, f"{self.name}: {command}: {done.stderr}{done.stdout}"
        return str(done.stdout)

    def as_root(self, command: str) -> Any:
        """The same for a command that may fail; has `rc`, `stdout` and `stderr`."""
        return self.shell.run("sudo sh -c %s", command)

    def service(self, unit: str) -> Any:
        return self.shell.service(unit)

    def file(self, path: str) -> Any:
        """A file as root sees it."""
        with self.shell.sudo():
            return self.shell.file(path)

    def ports_outside(self) -> set[int]:
        """TCP ports that are listened on beyond loopback."""
        listening = re.findall(r"^LISTEN\s+\S+\s+\S+\s+(\S+):(\d+)", self.root("ss -Hltn"), re.MULTILINE)
        # gRPC listens on an IPv4 address through a socket of IPv6; the kernel shows it as a mapped one.
        loopback = ("127.", "[::1]", "[::ffff:127.")
        return {int(port) for address, port in listening if not address.startswith(loopback)}

    @property
    def emulated(self) -> bool:
        return self.entry.emulated

    @functools.cached_property
    def container(self) -> bool:
        """Whether the host shares the kernel of its machine."""
        return self.shell.run("systemd-detect-virt --container").rc == 0

    def not_in_a_container(self, reason: str) -> None:
        if self.container:
            pytest.skip(f"a container cannot show it: {reason}")

    def only_on_a_board(self, reason: str) -> None:
        if self.entry.emulated:
            pytest.skip(f"only a board can show it: {reason}")


@functools.cache
def _fleet() -> Inventory | None:
    path = os.environ.get("HEDGEROW_TEST_INVENTORY")
    return None if path is None else inventories.load(Path(path))


def _names(kind: str) -> list[str]:
    fleet = _fleet()
    if fleet is None:
        return []
    wanted = [name for name in os.environ.get("HEDGEROW_TEST_HOSTS", "").split(",") if name]
    if unknown := sorted(set(wanted) - set(fleet.hosts)):
        raise pytest.UsageError(f"HEDGEROW_TEST_HOSTS: {', '.join(unknown)} not in {fleet.path}")
    names = {"all": list(fleet.hosts), "pis": [h.name for h in fleet.pis], "gateways": [h.name for h in fleet.gateways]}
    return [name for name in names[kind] if not wanted or name in wanted]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, kind in _KINDS.items():
        if fixture in metafunc.fixturenames:
            if _fleet() is None:
                missing = [pytest.param(None, marks=pytest.mark.skip(reason=_NO_FLEET))]
                metafunc.parametrize(fixture, missing, indirect=True, ids=["no-fleet"])
            else:
                metafunc.parametrize(fixture, _names(kind), indirect=True, scope="module")


@functools.cache
def _target(name: str) -> Target:
    fleet = _fleet()
    assert fleet is not None
    entry = fleet.hosts[name]
    shell = testinfra.get_host(
        f"ssh://{fleet.admin_user}@{entry.address}:{entry.port}",
        ssh_identity_file=str(fleet.ssh_key),
        ssh_extra_args=f"-o UserKnownHostsFile={fleet.known_hosts} -o StrictHostKeyChecking=yes",
        controlpersist=30,
    )
    return Target(fleet, entry, shell)


@pytest.fixture(scope="module")
def fleet() -> Inventory:
    found = _fleet()
    if found is None:
        pytest.skip(_NO_FLEET)
    return found


@pytest.fixture(scope="module")
def host(request: pytest.FixtureRequest) -> Target:
    return _target(request.param)


@pytest.fixture(scope="module")
def pi(request: pytest.FixtureRequest) -> Target:
    return _target(request.param)


@pytest.fixture(scope="module")
def gateway(request: pytest.FixtureRequest) -> Target:
    return _target(request.param)
