"""What is refused before a virtual machine is touched, and what a dead one is told to be."""

from __future__ import annotations

import json
import socket

import msgspec
import pytest

from hedgerow.emulator.vm import fleet as fleets
from hedgerow.emulator.vm import host as hosts
from hedgerow.emulator.vm import supervisor
from hedgerow.emulator.vm.fleet import VirtualFleet
from hedgerow.emulator.vm.host import VirtualHost
from hedgerow.emulator.vm.image import Card
from hedgerow.emulator.vm.supervisor import State
from hedgerow.errors import DeviceError, MachineError, PartialError, UsageError
from hedgerow.inventory import Host, Inventory


def host(**changes) -> Host:
    settings = {
        "name": "pi-1", "address": "127.99.0.11", "groups": ("pis",), "site": "orchard", "serial": "00000000deadbeef",
        "hat": "hat-plus-2", "cooling": "active", "storage": "sd", "emulated": True,
        "vars": {"virtual_machine": True, "ansible_port": 2222},
    }  # fmt: skip
    return Host(**settings | changes)


@pytest.fixture
def made(tmp_path, monkeypatch) -> VirtualHost:
    """A machine that was made, without disks: QEMU's tools are not asked."""
    monkeypatch.setattr(hosts, "_qemu_img", lambda *_: "{}")
    (tmp_path / "card").mkdir()
    card = Card(tmp_path / "card")
    card.kernel.touch()
    one = VirtualHost("meadow", host(), tmp_path / "pi-1")
    one.create(card, "digest", "ssh-ed25519 AAAA x")
    return one


def test_the_digest_follows_what_the_machine_is_made_from(tmp_path):
    def digest(card="c", **changes):
        return VirtualHost("meadow", host(**changes), tmp_path).digest(card)

    same = digest()
    assert digest() == same
    more = {"virtual_machine": True, "ansible_port": 2222}
    others = [
        digest(card="d"),
        digest(address="127.99.0.12"),
        digest(serial="00000000deadbee0"),
        digest(vars=more | {"virtual_machine_tpm": True}),
        digest(vars=more | {"virtual_machine_data_disk_mb": 512}),
    ]
    assert len({same, *others}) == 6


@pytest.mark.parametrize("size", ["1G", -1, True, 1.5])
def test_a_disk_s_size_is_a_number_of_megabytes(tmp_path, size):
    with pytest.raises(UsageError, match="is no size of a disk"):
        _ = VirtualHost("meadow", host(vars={"virtual_machine_data_disk_mb": size}), tmp_path).data_disk_mb


def test_a_gateway_s_registry_is_reached_and_a_pi_s_server(tmp_path):
    assert VirtualHost("m", host(groups=("gateways",)), tmp_path).forwards() == {2222: 22, 443: 443, 9100: 9100}
    assert VirtualHost("m", host(), tmp_path).forwards() == {2222: 22, 8443: 8443, 8444: 8444, 9100: 9100, 9101: 9101}


def test_a_port_that_is_taken_is_named_before_anything_starts(made):
    with socket.socket() as other:
        other.bind(("127.99.0.11", 8443))
        other.listen(1)
        with pytest.raises(MachineError, match=r"port 8443 of 127\.99\.0\.11 cannot be had: Address already in use"):
            made.power_on()
    assert made.state().power == "off"


def test_a_card_that_was_purged_is_said(made, tmp_path):
    (tmp_path / "card/kernel").unlink()
    with pytest.raises(MachineError, match="the card that this machine was made from is gone"):
        made.power_on()


def test_a_machine_that_goes_off_at_once_says_why(made, monkeypatch):
    def dies(*_, **__) -> None:
        state = State(power="off", why="no kernel: kernel_2712.img is not there")
        (made.folder / supervisor.STATE).write_bytes(msgspec.json.encode(state))

    monkeypatch.setattr(hosts.subprocess, "run", dies)
    made._sockets = made.folder / "s"
    with pytest.raises(DeviceError, match=r"went off at once: no kernel: kernel_2712\.img is not there"):
        made.power_on()


def test_a_supervisor_that_never_comes_is_not_waited_for_long(made, monkeypatch):
    monkeypatch.setattr(hosts.subprocess, "run", lambda *_, **__: None)
    monkeypatch.setattr(hosts, "SUPERVISOR_TIMEOUT_S", 0.1)
    made._sockets = made.folder / "s"
    with pytest.raises(MachineError, match="QEMU did not start"):
        made.power_on()


def test_a_half_made_machine_does_not_count(made):
    (made.folder / supervisor.SPEC).unlink()
    assert made.spec() is None


def test_a_snapshot_that_is_not_there_is_refused_with_those_that_are(made, monkeypatch):
    listing = json.dumps({"snapshots": [{"name": "booted"}, {"name": "mine"}]})
    monkeypatch.setattr(hosts, "_qemu_img", lambda *_: listing)
    with pytest.raises(UsageError) as caught:
        made.restore("other")
    assert caught.value.next_step == "one of: booted, mine"


def fleet(tmp_path, monkeypatch, *members: Host) -> VirtualFleet:
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path))
    inventory = Inventory(
        fleet="meadow", path=tmp_path, hosts={one.name: one for one in members}, groups={}, release=None
    )
    return VirtualFleet(inventory)


def test_only_virtual_machines_are_its_hosts(tmp_path, monkeypatch):
    others = [host(name="c", vars={}), host(name="r", emulated=False)]
    assert list(fleet(tmp_path, monkeypatch, host(), *others).hosts) == ["pi-1"]


@pytest.mark.parametrize("address", ["10.77.0.11", "pi.local"])
def test_an_address_that_is_not_the_machine_s_own_is_refused(tmp_path, monkeypatch, address):
    monkeypatch.setattr(fleets.checks, "require", lambda: None)
    with pytest.raises(UsageError, match="no address that a virtual machine can have"):
        fleet(tmp_path, monkeypatch, host(address=address)).up()


def test_a_machine_that_is_off_or_was_never_made_runs_nothing(tmp_path, monkeypatch, made):
    one = fleet(tmp_path, monkeypatch, host())
    with pytest.raises(UsageError, match="was never booted"):
        one.exec("pi-1", ["true"])
    one.hosts["pi-1"] = made
    with pytest.raises(DeviceError, match="is switched off: never switched on"):
        one.exec("pi-1", ["true"])


def test_down_removes_what_an_inventory_no_longer_has(tmp_path, monkeypatch, made):
    folder = tmp_path / "emulator/meadow"
    folder.mkdir(parents=True)
    made.folder.rename(folder / "gone")
    assert fleet(tmp_path, monkeypatch).down() == [str(folder / "gone")]
    assert not (folder / "gone").exists()


def test_cards_that_another_fleet_stands_on_are_kept(tmp_path, monkeypatch, made):
    other = tmp_path / "emulator/other"
    other.mkdir(parents=True)
    made.folder.rename(other / "pi-1")
    (tmp_path / "cache/vm").mkdir(parents=True)
    with pytest.raises(PartialError, match="in use by another fleet"):
        fleet(tmp_path, monkeypatch).down(purge_images=True)
    assert (tmp_path / "cache/vm").exists()
