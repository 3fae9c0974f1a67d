"""What would adopting a Pi that already runs something change, break or lose? Pure.

``findings`` compares what the host says with the inventory and the version lock. Each finding has a weight:

- ``blocks``: converging would refuse, or must not be tried: something is to be done by hand first.
- ``loses``: what is there stops working, or is replaced.
- ``changes``: the host becomes another, and nothing that works stops.
- ``keeps``: stays as it is, and an operator should know of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from hedgerow.converge import boot, pins, preflight
from hedgerow.inventory import Host, Inventory

Facts = Mapping[str, Any]


class Weight(StrEnum):
    """In the order in which a report tells them."""

    BLOCKS = "blocks"
    LOSES = "loses"
    CHANGES = "changes"
    KEEPS = "keeps"


class Finding(msgspec.Struct, frozen=True):
    """``area`` groups findings; ``what`` is a sentence about the host, ``then`` about what converging does to it."""

    weight: Weight
    area: str
    what: str
    then: str


# As ``hedgerow.device.hardware`` tells kinds: by PCI id, which 8 and 8L share.
_KINDS = {"none": "none", "hat-plus-2": "hat-plus-2", "hat-plus-13": "hat-ai", "hat-plus-26": "hat-ai"}
# Who may listen on our ports: the programs that converging puts there (docs/contracts.md, "Ports on a device").
_PORTS = {
    8443: "the server",
    8444: "the server",
    8000: "the server",
    8001: "the server",
    9100: "metrics",
    9101: "metrics",
}
_GATEWAY_PORTS = {443: "the registry", 9100: "metrics"}
_OURS = ("hedgerow", "prometheus-node", "node_exporter", "nginx", "sshd", "systemd")
_SSH = 22
# Apt sources that Raspberry Pi OS and Debian ship, by file.
_SOURCES = frozenset({"sources.list", "debian.sources", "raspi.sources"})
# As Raspberry Pi OS ships it (2026-06, arm64).
_CONFIG = frozenset(
    {
        *("dtparam=audio=on", "camera_auto_detect=1", "display_auto_detect=1", "auto_initramfs=1"),
        *("dtoverlay=vc4-kms-v3d", "max_framebuffers=2", "disable_fw_kms_setup=1", "arm_64bit=1", "disable_overscan=1"),
        *("arm_boost=1", "[cm4]", "otg_mode=1", "[cm5]", "dtoverlay=dwc2,dr_mode=host", "[pi5]", "dtoverlay=nospi10"),
        "[all]",
    }
)
_CMDLINE = ("console=", "root=", "rootfstype=", "fsck.repair=", "rootwait", "resize", "quiet", "splash", "cfg80211.")
_LIMITS = {"memory_mb": 900, "disk_free_mb": 1500, "clock_skew_s": 60}
_NEW_DISK_MB = 4000  # a runtime and two versions of a model


def findings(
    inventory: Inventory, host: Host, reported: Facts, survey: Facts, *, limits: Facts = _LIMITS
) -> list[Finding]:
    """``reported``: ``{"hardware", "state"}`` of ``hedgerow.device``; ``survey``: of ``hedgerow.lifecycle.survey``."""
    release = msgspec.to_builtins(inventory.release)
    facts = {**reported, "packages": reported["state"]["packages"], "clock_skew_s": 0.0}
    found = [
        *_board(host, release, facts, limits),
        *_packages(host, release, facts),
        *_sources(reported["state"]),
        *_boot(host, release, facts),
        *_services(host, survey),
        *_people(inventory, host, survey),
        *_files(survey),
        *_system(host, reported["state"], survey),
    ]
    order = list(Weight)
    return sorted(found, key=lambda one: (order.index(one.weight), one.area))


def blocks(found: Iterable[Finding]) -> bool:
    return any(one.weight is Weight.BLOCKS for one in found)


def _board(host: Host, release: Facts, facts: Facts, limits: Facts) -> Iterator[Finding]:
    wanted = {"name": host.name, "pi_serial": host.serial, "suite": release["os"]["suite"]}
    for problem in preflight.problems(wanted, facts, limits):
        yield Finding(Weight.BLOCKS, "board", problem, "converging refuses")
    kind = facts["hardware"]["hat"]["kind"]
    if kind != _KINDS[host.hat]:
        yield Finding(
            Weight.BLOCKS,
            "HAT",
            f"the PCIe bus has {kind}, the inventory says {host.hat}",
            "converging refuses: seat the HAT, or correct hat in the inventory",
        )


def _packages(host: Host, release: Facts, facts: Facts) -> Iterator[Finding]:
    for text in pins.drift(release, host.hat, facts):
        wrong_stack = "other NPU" in text
        yield Finding(
            Weight.LOSES if wrong_stack else Weight.CHANGES,
            "packages",
            text,
            "removed, with what uses it" if wrong_stack else "brought to the lock and held there",
        )
    locked = set(pins.locked(release, host.hat))
    for name in sorted(set(facts["state"]["holds"]) - locked):
        yield Finding(Weight.KEEPS, "packages", f"{name} is on hold, which the lock does not ask for", "stays held")


def _sources(state: Facts) -> Iterator[Finding]:
    for source in state["apt_sources"]:
        if source["file"] not in _SOURCES:
            uris = ", ".join(source["uris"])
            yield Finding(
                Weight.KEEPS,
                "packages",
                f"{source['file']} has packages come from {uris}",
                "stays; the firewall lets apt reach it",
            )


def _boot(host: Host, release: Facts, facts: Facts) -> Iterator[Finding]:
    texts = facts["state"]["boot"]
    config, cmdline = texts["config"] or "", texts["cmdline"] or ""
    own = config.partition(boot.BEGIN)[0] + config.partition(boot.END)[2]
    foreign = [line.strip() for line in own.splitlines() if line.strip() and not line.strip().startswith("#")]
    for line in dict.fromkeys(line for line in foreign if line not in _CONFIG):
        yield Finding(Weight.KEEPS, "config.txt", f"says {line}, which is not as shipped", "stays where it is")
    judged = boot.findings(config, boot.board(facts["hardware"]), hat=host.hat, flavour=release["kernel"]["flavour"])
    for text in judged["problems"]:
        yield Finding(Weight.BLOCKS, "config.txt", text, "converging refuses")
    for text in judged["remarks"]:
        yield Finding(Weight.KEEPS, "config.txt", text, "stays, and is said at every run")
    lines = [line for line in cmdline.splitlines() if line.strip()]
    if len(lines) > 1:
        yield Finding(
            Weight.BLOCKS,
            "cmdline.txt",
            f"has {len(lines)} lines, of which the first alone counts",
            "converging refuses",
        )
    for token in " ".join(lines[:1]).split():
        if not token.startswith(_CMDLINE):
            yield Finding(
                Weight.KEEPS, "cmdline.txt", f"says {token}, which is not as shipped", "stays unless the role sets it"
            )


def _services(host: Host, survey: Facts) -> Iterator[Finding]:
    ports = _GATEWAY_PORTS if host.is_gateway else _PORTS
    for entry in survey["listening"]:
        program, port = entry["program"] or "some program", entry["port"]
        if program.startswith(_OURS):
            continue
        where = f"{program} listens on {entry['protocol']} {entry['address']}:{port}"
        if port in ports and entry["protocol"] == "tcp":
            yield Finding(Weight.BLOCKS, "ports", where, f"the port is for {ports[port]}: stop it, or give it another")
        elif not entry["loopback"] and port != _SSH:
            yield Finding(
                Weight.LOSES, "ports", where, "closed to the network, unless hardening_inbound of this host lists it"
            )
    for engine, names in survey["containers"].items():
        running = f"{engine} runs {', '.join(names)}" if names else f"{engine} is installed, nothing runs in it"
        yield Finding(
            Weight.LOSES if names else Weight.KEEPS,
            "containers",
            running,
            "go on; what they publish is closed as above",
        )
    for name in survey["kubernetes"]:
        yield Finding(
            Weight.BLOCKS,
            "containers",
            f"{name} is installed",
            "it owns the firewall and memory that we set: remove it",
        )
    for unit in survey["own_units"]:
        yield Finding(
            Weight.KEEPS, "services", f"{unit} is somebody's own unit", "stays; the firewall decides whom it reaches"
        )
    for file in survey["scheduled"]:
        yield Finding(Weight.KEEPS, "services", f"{file} runs something by the clock or at boot", "stays")


def _people(inventory: Inventory, host: Host, survey: Facts) -> Iterator[Finding]:
    allowed = {inventory.admin_user, *map(str, host.vars.get("hardening_ssh_users", ()))}
    for person in survey["people"]:
        name, keys = person["name"], person["keys"]
        if name in allowed:
            continue
        logins = "it cannot be read with how many keys" if keys is None else f"{keys} keys"
        yield Finding(
            Weight.LOSES,
            "people",
            f"{name} can log in ({logins})",
            f"SSH lets {', '.join(sorted(allowed))} in, by key alone; list others in hardening_ssh_users",
        )
    for file, names in survey["sudoers"].items():
        if names != [inventory.admin_user]:
            yield Finding(
                Weight.KEEPS, "people", f"{file} lets {', '.join(names)} become root without a password", "look at it"
            )


def _files(survey: Facts) -> Iterator[Finding]:
    for path, origin in survey["files"].items():
        if origin == "changed":
            yield Finding(Weight.LOSES, "files", f"{path} was changed by hand", "overwritten: keep a copy")
        elif origin in {"foreign", "unreadable"}:
            yield Finding(
                Weight.LOSES, "files", f"{path} is there, and no package brought it", "overwritten: keep a copy"
            )


def _system(host: Host, state: Facts, survey: Facts) -> Iterator[Finding]:
    if state["hostname"] != host.name:
        yield Finding(
            Weight.KEEPS,
            "system",
            f"it calls itself {state['hostname']}",
            f"stays; certificates and tables say {host.name}",
        )
    free = state["disk_free_mb"].get("/var/lib")
    if free is not None and free < _NEW_DISK_MB:
        yield Finding(
            Weight.CHANGES, "system", f"{free} MB are free for runtime and models", f"{_NEW_DISK_MB} MB are comfortable"
        )
    if not survey["root"]:
        yield Finding(
            Weight.KEEPS,
            "system",
            "the login may not become root, so programs behind ports are not all known",
            "look again as root",
        )


def lines(host: str, found: list[Finding]) -> list[str]:
    """The report as a person reads it; the table of ``hedgerow host survey`` has the same."""
    if not found:
        return [f"{host}: adopting it changes nothing that could be found"]
    return [f"{host}: {one.weight}: {one.area}: {one.what} → {one.then}" for one in found]
