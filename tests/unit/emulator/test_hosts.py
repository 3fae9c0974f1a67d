"""Containers and virtual machines under one set of commands."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from hedgerow.commands.emulate import emulate
from hedgerow.emulator import hosts
from hedgerow.emulator.fleet import HostStatus
from hedgerow.emulator.hosts import EmulatedHosts
from hedgerow.emulator.vm import checks
from hedgerow.errors import RefusedError, UsageError
from hedgerow.inventory import Host, Inventory


def host(name: str, *, machine: bool, number: int) -> Host:
    return Host(
        name=name,
        address=f"127.99.0.{number}" if machine else f"10.99.0.{number}",
        groups=("pis",),
        site="orchard",
        serial=f"{number:016x}",
        hat="none",
        cooling="active",
        storage="sd",
        emulated=True,
        vars={"virtual_machine": True} if machine else {},
    )


@pytest.fixture
def mixed(tmp_path, monkeypatch) -> EmulatedHosts:
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path))
    members = [host("vm-1", machine=True, number=11), host("pi-1", machine=False, number=12)]
    return EmulatedHosts(inventory(tmp_path, *members))


def inventory(path, *members: Host) -> Inventory:
    return Inventory(
        fleet="meadow",
        path=path,
        hosts={one.name: one for one in members},
        groups={},
        release=None,
        vars={"emulator_network": "10.99.0.0/24"},
    )


def test_each_host_is_asked_of_the_part_that_has_it_and_told_in_the_inventory_s_order(mixed, monkeypatch):
    asked = []

    def up(self, names, *, recreate):
        asked.append((type(self).__name__, list(names)))
        return [HostStatus(name, "", "none", "running") for name in names]

    monkeypatch.setattr(hosts.VirtualFleet, "up", up)
    monkeypatch.setattr(hosts.EmulatedFleet, "up", up)
    assert [row.host for row in mixed.up()] == ["vm-1", "pi-1"]
    assert asked == [("EmulatedFleet", ["pi-1"]), ("VirtualFleet", ["vm-1"])], "seconds first"
    asked.clear()
    mixed.up(["vm-1"])
    assert asked == [("VirtualFleet", ["vm-1"])]


def test_a_fleet_of_machines_alone_needs_no_podman(tmp_path, monkeypatch):
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path))
    only = EmulatedHosts(inventory(tmp_path, host("vm-1", machine=True, number=11)))
    monkeypatch.setattr(hosts.EmulatedFleet, "__init__", lambda *_, **__: pytest.fail("podman was asked"))
    assert only.down() == []


def test_no_emulated_host_at_all_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no emulated host"):
        EmulatedHosts(inventory(tmp_path))


def test_a_container_has_no_snapshots(mixed):
    with pytest.raises(RefusedError, match="only a virtual machine has snapshots"):
        mixed.restore("pi-1", "booted")


def test_a_name_that_is_no_host_is_told_the_hosts(mixed):
    with pytest.raises(UsageError) as caught:
        mixed.values("pi-9")
    assert caught.value.next_step == "one of: vm-1, pi-1"


def test_what_virtual_machines_need_is_asked_for_by_name(monkeypatch):
    monkeypatch.setattr(checks, "find_program", lambda name: None if name == "mcopy" else f"/usr/bin/{name}")
    done = CliRunner().invoke(emulate, ["check", "--vm"], standalone_mode=False)
    assert done.return_value == 1
    assert "mcopy: makes the boot partition" in done.output
    assert "apt-get install mtools" in done.output
