"""The real ansible-inventory, typed."""

from __future__ import annotations

import os
import time

import msgspec
import pytest

from hedgerow import paths
from hedgerow.errors import UsageError
from hedgerow.inventory import FleetRelease, load, source


def test_the_embedded_default_is_what_the_contracts_say():
    fleet = load(paths.repository_root() / "inventory" / "emulated")
    assert fleet.fleet == "meadow"
    assert fleet.admin_user == "hedgerow-admin"
    assert {host.name: (host.address, host.hat, host.cooling) for host in fleet.hosts.values()} == {
        "gw-orchard": ("10.77.0.10", "none", "active"),
        "pi-orchard-1": ("10.77.0.11", "hat-plus-2", "active"),
        "pi-orchard-2": ("10.77.0.12", "hat-plus-2", "active"),
        "pi-orchard-3": ("10.77.0.13", "hat-plus-2", "passive"),
    }
    assert [host.name for host in fleet.pis] == ["pi-orchard-1", "pi-orchard-2", "pi-orchard-3"]
    assert [host.name for host in fleet.gateways] == ["gw-orchard"]
    assert set(fleet.sites) == {"orchard"}
    assert all(host.emulated and host.groups for host in fleet.hosts.values())
    assert fleet.release.os.suite == "trixie"
    assert fleet.release.kernel.package == "linux-image-rpi-2712"
    assert fleet.hosts["pi-orchard-1"].labels == {"ring": "canary"}


def test_limit_is_an_ansible_pattern():
    path = paths.repository_root() / "inventory" / "emulated"
    limited = load(path, limit="site_orchard:!gateways:!pi-orchard-2")
    assert list(limited.hosts) == ["pi-orchard-1", "pi-orchard-3"]
    assert limited.fleet == "meadow"


def test_limit_without_a_match_says_so():
    with pytest.raises(UsageError, match="no host matches --limit nowhere"):
        load(paths.repository_root() / "inventory" / "emulated", limit="nowhere")


def test_answers_come_from_memory_until_a_file_changes(copy, monkeypatch):
    asked = []
    real = source.list_hosts
    monkeypatch.setattr(source, "list_hosts", lambda *args, **kwargs: asked.append(args) or real(*args, **kwargs))
    first = load(copy.path)
    assert load(copy.path) is first
    assert len(asked) == 1
    copy.edit("group_vars/all/fleet.yml", "fleet: meadow", "fleet: brook0")
    later = time.time_ns() + 1_000_000_000
    os.utime(copy.path / "group_vars/all/fleet.yml", ns=(later, later))
    assert load(copy.path).fleet == "brook0"


def test_a_missing_inventory_is_named(tmp_path):
    with pytest.raises(UsageError, match="does not exist") as caught:
        load(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_broken_yaml_is_refused_not_skipped(copy):
    copy.edit("hosts.yml", "pis:", "pis: [")
    with pytest.raises(UsageError, match="cannot read the inventory") as caught:
        load(copy.path)
    assert "inventory check" in str(caught.value.next_step)


def test_an_empty_inventory_is_refused(tmp_path):
    (tmp_path / "hosts.yml").write_text("all:\n  hosts: {}\n")
    with pytest.raises(UsageError, match="has no host"):
        load(tmp_path / "hosts.yml")


# What follows needs no Ansible: `_typed` gets documents as ansible-inventory prints them.

HAILO = {"driver": "5.1.1", "library": "5.1.1", "firmware": "5.1.1", "packages": {"h10-hailort": "5.1.1"}}
RELEASE = {
    "name": "r",
    "os": {"distribution": "debian", "suite": "trixie"},
    "kernel": dict.fromkeys(("package", "version", "deb", "flavour", "page_size")),
    "headers": {"package": None, "deb": None},
    "raspi_firmware": {"version": None},
    "eeprom": {"version": None, "channel": None, "minimum": None},
    "dkms": {"version": None},
    "hailo_10h": HAILO,
    "hailo_8": HAILO | {"packages": {}},
    "mender_client": {"variant": "debian", "integration": "application", "version": "3.4.0"},
    "runtime": {"version": "0.1.0", "python": "3.13"},
    "apparmor": {"abi": "4.0"},
    "allow": {},
}
COMMON = {"fleet": "f", "admin_user": "a", "fleet_release": RELEASE, "cooling": "active", "storage": "sd"}


def _document(**hosts):
    return {
        "_meta": {"hostvars": {name: COMMON | variables for name, variables in hosts.items()}},
        "all": {"children": ["ungrouped", "pis"]},
        "pis": {"hosts": list(hosts)},
    }


ONE = {"ansible_host": "192.0.2.1", "pi_serial": "0" * 15 + "1", "hat": "none", "site": "s"}


def _typed(tmp_path, document):
    return source._typed(tmp_path, None, document)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"hat": "hat-plus-3"}, "hat"),
        ({"pi_serial": 1}, "pi_serial"),
        ({"labels": {"ring": 1}}, "labels"),
    ],
)
def test_a_wrong_value_names_host_and_inventory_key(tmp_path, change, said):
    with pytest.raises(UsageError, match=rf"host one: .*{said}"):
        _typed(tmp_path, _document(one=ONE | change))


def test_a_missing_value_is_named_by_its_inventory_key(tmp_path):
    without = {key: value for key, value in ONE.items() if key != "ansible_host"}
    with pytest.raises(UsageError, match="ansible_host"):
        _typed(tmp_path, _document(one=without))


def test_fleet_values_that_differ_between_hosts_are_refused(tmp_path):
    with pytest.raises(UsageError, match="fleet is not set, or not the same"):
        _typed(tmp_path, _document(one=ONE, two=ONE | {"fleet": "other"}))


def test_a_fleet_belongs_to_one_stage_of_the_registry(tmp_path):
    assert _typed(tmp_path, _document(one=ONE)).registry_stage == "production"
    assert _typed(tmp_path, _document(one=ONE | {"registry_stage": "dev"})).registry_stage == "dev"
    for other in ({}, {"registry_stage": "production"}):
        with pytest.raises(UsageError, match="registry_stage is not the same on every host"):
            _typed(tmp_path, _document(one=ONE | {"registry_stage": "dev"}, two=ONE | other))


def test_an_unknown_row_of_the_lock_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"fleet_release is wrong: .*kernal"):
        _typed(tmp_path, _document(one=ONE | {"fleet_release": RELEASE | {"kernal": {}}}))


def test_groups_have_the_hosts_of_their_children():
    document = {
        "all": {"children": ["ungrouped", "field"]},
        "field": {"children": ["pis"], "hosts": ["gw"]},
        "pis": {"hosts": ["a", "b"]},
        "_meta": {"hostvars": {"a": {}}},
    }
    members = source.group_members(document)
    assert members["field"] == ("gw", "a", "b")
    assert members["all"] == ("gw", "a", "b")


def test_release_round_trips():
    assert msgspec.to_builtins(msgspec.convert(RELEASE, FleetRelease)) == RELEASE
