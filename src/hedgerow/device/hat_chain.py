"""Does an AI HAT work, and if not, which link of the chain broke first?

Pure, standard library: the role ``hat`` asks on the controller with the inventory and the lock, a device asks itself.
Links are proven in the order in which they depend on each other; the first broken one is the verdict, because what
comes after it fails for the same reason. What is wrong without stopping the NPU is a warning. Messages and codes:
facts §3.3, §3.7, §8 (F numbers are those of the latter).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "broken", "warning", "not reached", "not asked"]

LINKS = (
    "pci", "driver_built", "driver_loaded", "driver_alone", "bound", "node", "versions", "firmware", "answers",
    "eeprom", "link", "pages", "power", "memory",
)  # fmt: skip
FULL_SPEED_GTS = 8.0
GOOD_SUPPLY_MA = 5000
_COLD = "switch the power off, wait ten seconds, switch it on: a warm reboot keeps the chip as it is"
_RESET = "or reset it on the bus: ansible-playbook playbooks/recover_npu.yml -e hat_pci_reset=true --limit HOST"


@dataclass(frozen=True, slots=True)
class Chip:
    """What belongs to a PCI id (facts §3.1, §3.5)."""

    module: str
    other: str
    architectures: tuple[str, ...]
    package: str
    wrong_package: str


CHIPS: Mapping[str, Chip] = {
    "0x45c4": Chip("hailo1x_pci", "hailo_pci", ("HAILO10H",), "hailo-h10-all", "hailo-all"),
    "0x2864": Chip("hailo_pci", "hailo1x_pci", ("HAILO8", "HAILO8L"), "hailo-all", "hailo-h10-all"),
}


@dataclass(frozen=True, slots=True)
class Link:
    """One link: what was found, which of the 48 failures it is, and what to do next."""

    link: str
    state: State
    says: str
    failure: str | None = None
    next: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to decide from: ``hat`` and more of ``hardware.read``, ``npu`` of ``npu.read``."""

    hat: Mapping[str, Any]
    npu: Mapping[str, Any]
    chip: Chip
    hardware: Mapping[str, Any]
    group: str | None

    def log(self, pattern: str) -> re.Match[str] | None:
        """The last message of the kernel that matches, since the driver was put in last."""
        found = None
        for message in self.npu["log"]:
            if "Init module" in message:
                found = None
            found = re.search(pattern, message) or found
        return found


def prove(
    hardware: Mapping[str, Any], npu: Mapping[str, Any] | None = None, *, group: str | None = None
) -> dict[str, Any]:
    """The verdict as JSON: ``{"ok", "broken", "failure", "text", "links": [Link], "warnings": [Link]}``.

    ``hardware`` is ``hardware.read``'s, ``npu`` is ``npu.read``'s; without the latter the links of the driver's stack
    are not asked. ``group`` is who may use the node; None asks nothing of its mode. A board without an NPU proves
    nothing: ``ok`` is None then. ``broken`` names the first broken link.
    """
    unasked = () if npu is not None else _OF_THE_STACK
    npu = _unknown_stack(hardware["hat"]) if npu is None else npu
    chip = CHIPS.get(npu["device"] or "")
    if chip is None:
        device = npu["device"]
        says = "no Hailo device on the PCIe bus" if device is None else f"unknown device 1e60:{device[2:]}"
        return {"ok": None, "broken": None, "failure": None, "text": says, "links": [], "warnings": []}
    seen = Seen(hardware["hat"], npu, chip, hardware, group)
    links: list[Link] = []
    broken: Link | None = None
    for name in LINKS:
        if name in unasked:
            links.append(Link(name, "not asked", "only root's look at the host tells"))
            continue
        # Board, power and memory explain what broke before them, so they are looked at whatever did.
        if broken is not None and name not in _ASKED_ALWAYS:
            links.append(Link(name, "not reached", f"after {broken.link}"))
            continue
        link = _ASK[name](seen)
        links.append(link)
        if link.state == "broken" and broken is None:
            broken = link
    warnings = [
        asdict(link) for link in links if link.state == "warning" or (link.state == "broken" and link != broken)
    ]
    text = _healthy(seen) if broken is None else f"{broken.link}: {_sentence(broken)}"
    return {
        "ok": broken is None,
        "broken": None if broken is None else broken.link,
        "failure": None if broken is None else broken.failure,
        "text": text,
        "links": [asdict(link) for link in links],
        "warnings": warnings,
    }


def _unknown_stack(hat: Mapping[str, Any]) -> dict[str, Any]:
    """In place of ``npu.read``: what ``hardware.read`` alone tells."""
    device = {"hat-plus-2": "0x45c4", "hat-ai": "0x2864", "none": None}.get(hat["kind"], "0x????")
    return {
        "device": device,
        "address": hat.get("pci_address"),
        "log": [],
        "firmware_missing": None,
        "nodes": [] if hat["node"] is None else [{"path": hat["node"], "mode": "", "group": ""}],
        "owners": [],
    }


def _healthy(seen: Seen) -> str:
    hat = seen.hat
    parts = [
        hat["architecture"] or "in use",
        f"driver {hat['driver_version_loaded']}",
        f"library {hat['library_version']}",
        f"firmware {hat['firmware_version'] or 'not asked'}",
        str(hat["node"]),
        f"PCIe {hat['link_speed_gts']} GT/s x{hat['link_width']}",
    ]
    return ", ".join(parts)


def _sentence(link: Link) -> str:
    number = f" ({link.failure})" if link.failure else ""
    return f"{link.says}{number}" + (f". Next: {link.next}" if link.next else "")


# ── links ───────────────────────────────────────────────────────────────────


def _pci(seen: Seen) -> Link:
    return Link("pci", "ok", f"1e60:{seen.npu['device'][2:]} at {seen.npu['address']}")


def _driver_built(seen: Seen) -> Link:
    """The module for the running kernel; dkms makes it where that kernel's headers are (F6)."""
    npu, module = seen.npu, seen.chip.module
    here = npu["kernels"].get(npu["kernel"], {"headers": False, "modules": {}})
    if module in npu["loaded"] or module in here["modules"]:
        states = {name: kernels.get(npu["kernel"], "not built") for name, kernels in npu["dkms"].items()}
        mine = [f"dkms {name}: {state}" for name, state in states.items() if name.startswith(f"{module}/")]
        return Link("driver_built", "ok", "; ".join(mine) or f"{here['modules'].get(module)}, not of dkms")
    kernel = npu["kernel"]
    if seen.chip.other in here["modules"] and not any(name.startswith(f"{module}/") for name in npu["dkms"]):
        return Link(
            "driver_built", "broken",
            f"{seen.chip.other} is there, which never binds this chip, and {module} is not: the other NPU's stack",
            "F5", f"sudo apt-get purge {seen.chip.wrong_package} and its packages, then install {seen.chip.package}; "
            "the role does it with hat_purge_wrong_stack: true",
        )  # fmt: skip
    if not here["headers"]:
        return Link(
            "driver_built", "broken", f"the headers of the running kernel {kernel} are missing, so dkms built nothing",
            "F6", f"sudo apt-get install linux-headers-{kernel}; sudo dkms autoinstall -k {kernel}",
        )  # fmt: skip
    if any(name.startswith(f"{module}/") for name in npu["dkms"]):
        return Link(
            "driver_built", "broken", f"dkms has {module} and did not build it for {kernel}", "F7",
            f"sudo dkms autoinstall -k {kernel}; if it does not build: "
            f"/var/lib/dkms/{module}/*/build/make.log (del_timer_sync: 5.3.0 needs a kernel before 6.15)",
        )  # fmt: skip
    return Link(
        "driver_built", "broken", f"no {module} for {kernel}: the driver's package was installed without dkms, or not",
        "F6", f"sudo apt-get install --reinstall {_driver_package(seen)}; the package log: "
        "/var/log/hailort-pcie-driver.deb.log",
    )  # fmt: skip


def _driver_loaded(seen: Seen) -> Link:
    module, npu = seen.chip.module, seen.npu
    loaded, disk = npu["loaded"].get(module), npu["on_disk"].get(module)
    if loaded is None:
        for entry in npu["modprobe"]["install_lines"]:
            if entry["module"] == module:
                return Link(
                    "driver_loaded", "broken", f"{entry['path']} says {entry['line']!r}, so it cannot be loaded", "F41",
                    "delete that line; keep other modules away by blacklist alone",
                )  # fmt: skip
        if module in npu["modprobe"]["blacklisted"]:
            return Link(
                "driver_loaded", "broken", f"{module} is blacklisted, and it is the right one", "F5",
                "grep -r hailo /etc/modprobe.d; delete that line",
            )  # fmt: skip
        return Link("driver_loaded", "broken", f"{module} is built and not loaded", "F6", f"sudo modprobe {module}")
    if None not in {loaded["version"], disk} and loaded["version"] != disk:
        return Link(
            "driver_loaded", "broken", f"{module} {loaded['version']} is loaded, {disk} is installed", "F3",
            "reboot; if the old one is back then, an initramfs or a stray copy has it: sudo update-initramfs -u -k all",
        )  # fmt: skip
    return Link("driver_loaded", "ok", f"{module} {loaded['version']}")


def _driver_alone(seen: Seen) -> Link:
    other, npu = seen.chip.other, seen.npu
    if other in npu["loaded"]:
        return Link(
            "driver_alone", "broken", f"{other} is loaded beside {seen.chip.module}; both make the class hailo_chardev",
            "F4", f"purge {seen.chip.wrong_package}, keep `blacklist {other}`, sudo depmod -a, reboot",
        )  # fmt: skip
    copies = sorted(
        f"/lib/modules/{kernel}/{found['modules'][other]}"
        for kernel, found in npu["kernels"].items()
        if other in found["modules"]
    )
    if copies:
        return Link(
            "driver_alone", "warning", f"{other} is not loaded, and could be: {', '.join(copies)}", "F3",
            "purge its package; a copy that no package has goes with hat_remove_stray_modules: true",
        )  # fmt: skip
    return Link("driver_alone", "ok", f"no {other}")


def _bound(seen: Seen) -> Link:
    """The driver has the device, or said why not."""
    if seen.hat["driver"] == seen.chip.module:
        return Link("bound", "ok", f"{seen.chip.module} has {seen.npu['address']}")
    if seen.hat["driver"] is not None:
        return Link("bound", "broken", f"{seen.hat['driver']} has the device, {seen.chip.module} should", "F5")
    for pattern, says, failure, step in _PROBE_SAYS:
        found = seen.log(pattern)
        if found is not None:
            return Link("bound", "broken", f"{says}: {found[0]!r}", failure, step)
    if "loaded" not in seen.npu:
        return Link("bound", "broken", "no driver has the device", "F6", "the whole chain: hedgerow host explain HOST")
    missing = seen.npu["firmware_missing"]
    if missing is not None:
        return Link(
            "bound", "broken", f"{missing} is missing", "F2",
            f"sudo apt-get install --reinstall {_driver_package(seen)}",
        )  # fmt: skip
    return Link("bound", "broken", "the driver is loaded and has no device", "F5", "sudo dmesg | grep -i hailo")


# What a driver says when its probe fails → meaning, failure, next step. The first that was said counts.
_PROBE_SAYS = (
    (r"Failed to enable MSI -28", "no interrupt for the chip", "F39",
     "the HAT sits directly on the Pi's own PCIe connector: behind a switch this driver does not work"),
    (r"cannot create duplicate filename '/class/hailo_chardev'", "two drivers want one class", "F4",
     "remove the other NPU's stack, sudo depmod -a, reboot"),
    (r"Timeout waiting for firmware file|Failed writing SOC firmware on stage \d", "the chip took no firmware", "F9",
     f"{_COLD}; then a newer bootloader and a 27 W supply (F14)"),
    (r"Failed reading device BARs", "the chip dropped off the bus", "F8", _COLD),
    (r"Direct firmware load for \S+ failed with error -2", "a firmware file is missing", "F2",
     "reinstall the driver's package"),
    (r"max_desc_page_size|Invalid.*desc page size", "a page size that the chip has not", "F11",
     "hat_module_options: {force_desc_page_size: 4096}"),
)  # fmt: skip


def _node(seen: Seen) -> Link:
    """Under either name: 5.3.0 renamed node and class together (F21)."""
    nodes = seen.npu["nodes"]
    if seen.hat["node"] is None or not nodes:
        return Link("node", "broken", "the driver has the chip and there is no device node", "F21",
                    "ls /sys/class/hailo_chardev /sys/class/hailo1x; udev rules for both are the role's")  # fmt: skip
    node = nodes[0]
    said = f"{node['path']} {node['mode']} {node['group']}".strip()
    if seen.group is not None and (node["group"], node["mode"]) != (seen.group, "0660"):
        return Link(
            "node", "broken", f"{said}, not 0660 {seen.group}", "F42",
            "sudo udevadm control --reload && sudo udevadm trigger --subsystem-match=hailo_chardev "
            "--subsystem-match=hailo1x",
        )  # fmt: skip
    return Link("node", "ok", said)


def _versions(seen: Seen) -> Link:
    driver, library = seen.hat["driver_version_loaded"], seen.hat["library_version"]
    if library is None:
        return Link("versions", "broken", "hailortcli is missing or does not answer", "F1",
                    f"sudo apt-get install {seen.chip.package}")  # fmt: skip
    if driver != library:
        return Link(
            "versions", "broken", f"driver {driver} and library {library} differ; every call fails (status 76)", "F1",
            "bring both to one version in one transaction: ansible-playbook playbooks/upgrade.yml --limit HOST",
        )  # fmt: skip
    return Link("versions", "ok", f"driver and library {driver}")


def _firmware(seen: Seen) -> Link:
    """What runs on the chip: latched over warm reboots, so an upgrade of the stack leaves the old one (F10)."""
    driver, firmware = seen.hat["driver_version_loaded"], seen.hat["firmware_version"]
    told = seen.log(r"Mismatch Driver version pcie driver (\d+:\d+:\d+) pci_ep driver (\d+:\d+:\d+)")
    if told is not None and "_OPERATION_FAILED" in str(seen.hat["error"]):
        firmware = told[2].replace(":", ".")
    if str(seen.hat["error"]).startswith("host ") and firmware is None:
        return Link(
            "firmware", "broken", f"{seen.hat['error']}: firmware files and driver are of different sets", "F2",
            f"sudo apt-get install --reinstall {_driver_package(seen)}; {_COLD}",
        )  # fmt: skip
    if firmware is not None and firmware != driver:
        return Link(
            "firmware", "broken", f"firmware {firmware} still runs on the chip, the driver is {driver}", "F10",
            f"{_COLD}; {_RESET}",
        )  # fmt: skip
    latched = seen.log("Firmware batch was already loaded") is not None
    return Link("firmware", "ok", f"{firmware or 'not asked'}{', since before this boot' if latched else ''}")


def _answers(seen: Seen) -> Link:
    """The text of identify, never its exit code: a machine without a device exits 0 and says nothing."""
    hat = seen.hat
    if hat["architecture"] in seen.chip.architectures:
        # F47: the older API is not there over the RPC that this chip speaks.
        api = "; InferModel and GenAI API alone, no VStreams (F47)" if hat["architecture"] == "HAILO10H" else ""
        return Link("answers", "ok", f"{hat['architecture']}{api}")
    if hat["architecture"] is not None:
        return Link("answers", "broken", f"the chip says it is a {hat['architecture']}", "F5")
    found = re.search(r"HAILO_[A-Z_]+\((\d+)\)", str(hat["error"]))
    code = int(found[1]) if found else None
    if code in _BUSY:
        return _busy(seen, str(hat["error"]))
    says, failure, step = _CODES.get(
        code or 0, ("the chip does not answer", None, "sudo hailortcli fw-control identify")
    )
    return Link("answers", "broken", f"{says}: {hat['error']}", failure, step)


_BUSY = (73, 74)
_CODES: Mapping[int, tuple[str, str | None, str]] = {
    7: ("what was asked for does not exist on this chip", "F47", "port it to InferModel or the GenAI API"),
    8: ("the page size of the driver's descriptors does not fit", "F11",
        "hat_module_options: {force_desc_page_size: 4096}"),
    36: ("the node may not be opened, or driver and firmware differ", "F42", "sudo dmesg | grep -i hailo"),
    62: ("the chip closed the connection", "F8", f"sudo hailortcli logs runtime; {_COLD}; {_RESET}"),
    64: ("libhailort finds no driver", "F6", "dkms status"),
    76: ("driver and library differ", "F1", "ansible-playbook playbooks/upgrade.yml --limit HOST"),
    81: ("too little contiguous memory on the host", "F20",
         "grep Cma /proc/meminfo; restart what used it; cma=256M in boot_config_cmdline_present"),
    87: ("the driver waited in vain", "F8", f"{_COLD}; {_RESET}"),
}  # fmt: skip


def _busy(seen: Seen, error: str) -> Link:
    """Somebody has the chip: that is its purpose, unless nobody has."""
    owners = seen.npu["owners"]
    if owners:
        listed = ", ".join(one["unit"] or f"{one['program']} (pid {one['pid']})" for one in owners)
        return Link("answers", "ok", f"in use by {listed}")
    return Link(
        "answers", "warning", f"{error}, and no process has the node open: a container, or a zombie", "F19",
        f"sudo fuser -v {seen.hat['node']}; restart its owner; {_RESET}",
    )  # fmt: skip


def _eeprom(seen: Seen) -> Link:
    """The HAT's own EEPROM makes the firmware switch the lane to Gen 3. What it says is no identity (facts §10)."""
    if seen.hat["vendor"] is None and seen.hat["product"] is None:
        return Link(
            "eeprom", "warning", "the HAT's EEPROM was not read", "F30",
            "seat the 40-pin header; no force_eeprom_read=0 in config.txt",
        )  # fmt: skip
    return Link("eeprom", "ok", f"{seen.hat['vendor']} {seen.hat['product']}")


def _link(seen: Seen) -> Link:
    speed, width = seen.hat["link_speed_gts"], seen.hat["link_width"]
    said = f"{speed} GT/s x{width}"
    if speed is None or speed >= FULL_SPEED_GTS:
        return Link("link", "ok", said)
    if seen.hat["vendor"] is None and seen.hat["product"] is None:
        return Link("link", "warning", f"{said}, 8.0 with the EEPROM read", "F30", "seat the 40-pin header")
    return Link(
        "link", "warning", f"{said} instead of 8.0: forced, or the signal is poor", "F13",
        "look for dtparam=pciex1_gen=2 in config.txt; reseat the ribbon cable, or take a shorter one",
    )  # fmt: skip


def _pages(seen: Seen) -> Link:
    """Descriptors of more than 4096 bytes, which old drivers take from 16 KiB pages, the chip refuses."""
    loaded = seen.npu["loaded"].get(seen.chip.module)
    size = int((loaded or {"parameters": {}})["parameters"].get("force_desc_page_size", "0") or 0)
    if size > 4096 or size & (size - 1):  # noqa: PLR2004 - what the chip has
        return Link(
            "pages", "warning", f"force_desc_page_size={size} is loaded; the chip has 4096", "F11",
            "hat_module_options: {force_desc_page_size: 4096}, then reload the module or reboot",
        )  # fmt: skip
    return Link("pages", "ok", f"descriptor pages of {size or 'default'} size")


def _power(seen: Seen) -> Link:
    throttled = seen.hardware.get("throttled")
    ever = throttled is not None and (throttled["now"]["undervoltage"] or throttled["since_boot"]["undervoltage"])
    if ever:
        return Link("power", "warning", "the 5 V input was too low since boot", "F14",
                    "a 27 W supply and its own cable; vcgencmd pmic_read_adc EXT5V_V")  # fmt: skip
    supply = (seen.hardware.get("power_supply") or {}).get("max_current_ma")
    if supply is not None and supply < GOOD_SUPPLY_MA:
        return Link("power", "warning", f"the supply gives {supply} mA, a Pi with this HAT wants 5000", "F14",
                    "a 27 W supply; PSU_MAX_CURRENT only for one that is known to be good")  # fmt: skip
    return Link("power", "ok", "no under-voltage since boot")


def _memory(seen: Seen) -> Link:
    total, free = seen.npu["cma"]["total_kb"], seen.npu["cma"]["free_kb"]
    if total == 0:
        return Link("memory", "warning", "CmaTotal is 0: cma= asked for more than there is in one piece", "F20",
                    "a smaller cma= (256M) in boot_config_cmdline_present, then reboot")  # fmt: skip
    return Link("memory", "ok", "not told" if total is None else f"CMA {free} of {total} kB free")


def _driver_package(seen: Seen) -> str:
    return "h10-hailort-pcie-driver" if seen.chip.module == "hailo1x_pci" else "hailort-pcie-driver"


_OF_THE_STACK = ("driver_built", "driver_loaded", "driver_alone", "pages", "memory")
_ASKED_ALWAYS = ("eeprom", "link", "pages", "power", "memory")
_ASK: Mapping[str, Callable[[Seen], Link]] = {
    "pci": _pci,
    "driver_built": _driver_built,
    "driver_loaded": _driver_loaded,
    "driver_alone": _driver_alone,
    "bound": _bound,
    "node": _node,
    "versions": _versions,
    "firmware": _firmware,
    "answers": _answers,
    "eeprom": _eeprom,
    "link": _link,
    "pages": _pages,
    "power": _power,
    "memory": _memory,
}


def lines(verdict: Mapping[str, Any]) -> Iterator[str]:
    """The chain as people read it, a line a link."""
    marks = {"ok": "ok", "broken": "BROKEN", "warning": "look", "not reached": "-", "not asked": "-"}
    for entry in verdict["links"]:
        link = Link(**entry)
        detail = link.says if link.state not in {"broken", "warning"} else _sentence(link)
        yield f"{marks[link.state]:7} {link.link:14} {detail}"
