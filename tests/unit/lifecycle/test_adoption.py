"""A Pi in use, described, and what the report makes of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from hedgerow import paths
from hedgerow.converge import boot
from hedgerow.inventory import Host, Inventory, load
from hedgerow.lifecycle import adoption
from hedgerow.lifecycle.adoption import Finding, Weight

PI = "pi-orchard-1"
SHIPPED = (paths.repository_root() / "src/hedgerow/emulator/guest/image/boot/firmware/config.txt").read_text()
SURVEY: dict[str, Any] = {
    "root": True, "listening": [], "people": [], "sudoers": {}, "containers": {}, "own_units": [], "scheduled": [],
    "files": {}, "kubernetes": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def inventory() -> Inventory:
    return load(paths.repository_root() / "inventory/emulated")


@pytest.fixture
def host(inventory: Inventory) -> Host:
    return inventory.hosts["gw-orchard"]  # no HAT: what is asked here is not about it


def reported(host: Host) -> dict[str, Any]:
    return {
        "hardware": {
            "board": {
                "is_pi5": True, "model": "Raspberry Pi 5", "serial": host.serial,
                "memory_mb": 8192, "revision": "d04171",
            },
            "boot": {"partition": 1},
            "hat": {"kind": "none"},
            "kernel": {"release": "6.18.50+rpt-rpi-2712"},
        },
        "state": {
            "hostname": host.name,
            "os": {"version_codename": "trixie"},
            "packages": {},
            "holds": [],
            "apt_sources": [{"file": "raspi.sources", "uris": ["file:/x"]}],
            "boot": {"config": SHIPPED, "cmdline": "console=tty1 root=PARTUUID=1-02 rootwait"},
            "disk_free_mb": {"/": 20000, "/var/lib": 20000, "/boot/firmware": 400},
        },
    }  # fmt: skip


def find(inventory: Inventory, host: Host, *, survey: dict[str, Any] | None = None, **state: Any) -> list[Finding]:
    said = reported(host)
    said["state"] |= state
    return adoption.findings(inventory, host, said, SURVEY | (survey or {}))


def of(found: list[Finding], area: str) -> list[Finding]:
    return [one for one in found if one.area == area]


def test_a_fresh_pi_has_nothing_to_lose(inventory: Inventory, host: Host) -> None:
    assert find(inventory, host) == []
    assert not adoption.blocks([])


def test_another_board_or_release_blocks(inventory: Inventory, host: Host) -> None:
    said = copy.deepcopy(reported(host))
    said["hardware"]["board"]["serial"] = "0" * 16
    said["state"]["os"] = {"version_codename": "bookworm"}
    found = adoption.findings(inventory, host, said, SURVEY)
    assert [one.weight for one in found] == [Weight.BLOCKS, Weight.BLOCKS]
    assert adoption.blocks(found)


def test_another_hat_than_the_inventorys_blocks(inventory: Inventory, host: Host) -> None:
    said = reported(host)
    said["hardware"]["hat"] = {"kind": "hat-ai"}
    found = adoption.findings(inventory, host, said, SURVEY)
    assert [(one.weight, one.area) for one in found] == [(Weight.BLOCKS, "HAT")]


def test_our_ports_must_be_free_and_others_are_closed(inventory: Inventory) -> None:
    host = inventory.hosts[PI]
    listening = [
        {"protocol": "tcp", "address": "0.0.0.0", "port": 8443, "program": "node", "loopback": False},
        {"protocol": "tcp", "address": "127.0.0.1", "port": 8000, "program": "hailo-ollama", "loopback": True},
        {"protocol": "tcp", "address": "0.0.0.0", "port": 1880, "program": "node-red", "loopback": False},
        {"protocol": "tcp", "address": "127.0.0.1", "port": 631, "program": "cupsd", "loopback": True},
        {"protocol": "tcp", "address": "0.0.0.0", "port": 22, "program": "sshd", "loopback": False},
        {"protocol": "tcp", "address": "0.0.0.0", "port": 9101, "program": "hedgerow-device", "loopback": False},
    ]
    gateway = inventory.hosts["gw-orchard"]
    served = adoption._services(gateway, SURVEY | {"listening": listening})
    assert [one.what for one in served if one.weight is Weight.BLOCKS] == []  # a gateway does not serve there
    found = adoption._services(host, SURVEY | {"listening": listening})
    assert [(one.weight, one.what.split()[0]) for one in found] == [
        (Weight.BLOCKS, "node"), (Weight.BLOCKS, "hailo-ollama"), (Weight.LOSES, "node-red"),
    ]  # fmt: skip


def test_running_containers_are_told_and_kubernetes_blocks(inventory: Inventory, host: Host) -> None:
    found = of(
        find(inventory, host, survey={"containers": {"docker": ["web"], "podman": []}, "kubernetes": ["k3s"]}),
        "containers",
    )
    assert [(one.weight, one.what) for one in found] == [
        (Weight.BLOCKS, "k3s is installed"),
        (Weight.LOSES, "docker runs web"),
        (Weight.KEEPS, "podman is installed, nothing runs in it"),
    ]


def test_people_lose_their_login_unless_listed(inventory: Inventory, host: Host) -> None:
    people = [{"name": name, "keys": keys} for name, keys in (("pi", 1), ("ada", None), ("hedgerow-admin", 1))]
    found = of(find(inventory, host, survey={"people": people, "sudoers": {"/etc/sudoers.d/x": ["ada"]}}), "people")
    assert [one.what.split()[0] for one in found] == ["pi", "ada", "/etc/sudoers.d/x"]
    listed = type(host)(
        **{key: getattr(host, key) for key in host.__struct_fields__} | {"vars": {"hardening_ssh_users": ["ada"]}}
    )
    found = of(find(inventory, listed, survey={"people": people}), "people")
    assert [one.what.split()[0] for one in found] == ["pi"]


def test_files_that_a_person_wrote_would_be_lost(inventory: Inventory, host: Host) -> None:
    files = {"/etc/nftables.conf": "changed", "/etc/x": "foreign", "/etc/y": "package", "/etc/z": "ours"}
    found = of(find(inventory, host, survey={"files": files}), "files")
    assert [(one.weight, one.what.split()[0]) for one in found] == [
        (Weight.LOSES, "/etc/nftables.conf"), (Weight.LOSES, "/etc/x"),
    ]  # fmt: skip


def test_boot_files_keep_their_foreign_lines_and_say_them(inventory: Inventory, host: Host) -> None:
    config = SHIPPED + f"dtoverlay=w1-gpio\n# a comment\n{boot.BEGIN}\n[all]\ndtparam=watchdog=on\n[all]\n{boot.END}\n"
    found = find(inventory, host, boot={"config": config, "cmdline": "console=tty1 root=/dev/x rootwait isolcpus=3"})
    assert [one.what.split(",")[0] for one in of(found, "config.txt")] == ["says dtoverlay=w1-gpio"]
    assert [one.what.split(",")[0] for one in of(found, "cmdline.txt")] == ["says isolcpus=3"]
    assert {one.weight for one in found} == {Weight.KEEPS}


def test_a_second_line_of_cmdline_blocks(inventory: Inventory, host: Host) -> None:
    found = find(inventory, host, boot={"config": SHIPPED, "cmdline": "root=/dev/x rootwait\npanic=10\n"})
    assert [one.weight for one in of(found, "cmdline.txt")] == [Weight.BLOCKS]


def test_the_wrong_npu_stack_is_removed(inventory: Inventory) -> None:
    host = inventory.hosts[PI]
    facts = {**reported(host), "packages": {"hailo-all": "5.1.1", "hailort": "4.23.0"}}
    found = list(adoption._packages(host, adoption.msgspec.to_builtins(inventory.release), facts))
    assert {one.weight for one in found if "other NPU" in one.what} == {Weight.LOSES}
    assert [one for one in found if "hailo-all" in one.what]


def test_packages_of_the_lock_change_and_other_holds_stay(inventory: Inventory, host: Host) -> None:
    found = of(
        find(
            inventory,
            host,
            packages={"linux-image-rpi-2712": "1:6.12.75-1+rpt1"},
            holds=["vim", "linux-image-rpi-2712"],
        ),
        "packages",
    )
    assert [one.weight for one in found if "linux-image-rpi-2712 is" in one.what] == [Weight.CHANGES]
    assert [one.what for one in found if one.weight is Weight.KEEPS] == [
        "vim is on hold, which the lock does not ask for"
    ]


def test_sources_that_nobody_ships_are_told(inventory: Inventory, host: Host) -> None:
    found = find(inventory, host, apt_sources=[{"file": "docker.list", "uris": ["https://example.invalid/"]}])
    assert [one.what for one in found] == ["docker.list has packages come from https://example.invalid/"]


def test_a_report_is_ordered_by_weight(inventory: Inventory, host: Host) -> None:
    found = find(
        inventory, host, survey={"kubernetes": ["k3s"], "files": {"/etc/x": "foreign"}, "scheduled": ["/etc/rc.local"]},
        hostname="raspberrypi",
    )  # fmt: skip
    assert [one.weight for one in found] == sorted((one.weight for one in found), key=list(Weight).index)
    lines = adoption.lines(host.name, found)
    assert lines[0].startswith(f"{host.name}: blocks: containers: k3s is installed → ")
    assert adoption.lines(host.name, []) == [f"{host.name}: adopting it changes nothing that could be found"]


def test_what_is_shipped_is_what_the_emulated_image_ships() -> None:
    lines = {line.strip() for line in SHIPPED.splitlines() if line.strip() and not line.startswith("#")}
    assert lines == adoption._CONFIG
    assert Path(paths.repository_root() / "playbooks/adopt.yml").is_file()
