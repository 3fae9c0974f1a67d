"""From the inventory's ``hat`` and the lock to packages, module options and a verdict on the HAT.

Whether the chain from bus to firmware holds is ``hedgerow.device.hat_chain``'s; here it is held against what the
inventory says sits on the board and what the lock says should run. What the HAT is, is decided by PCI id: the strings
of its EEPROM are not known (facts §10), and the NPU is no identity of a device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hedgerow.converge import pins, reboot
from hedgerow.device import hat_chain
from hedgerow.errors import RefusedError, UsageError


class _Stack(NamedTuple):
    kind: str  # as hedgerow.device.hardware tells kinds: by PCI id, which 8 and 8L share
    device: str
    architecture: str  # as identify prints it


# Facts §3.1, §3.2, §3.5.
_STACKS = {
    "hat-plus-2": _Stack("hat-plus-2", "0x45c4", "HAILO10H"),
    "hat-plus-13": _Stack("hat-ai", "0x2864", "HAILO8L"),
    "hat-plus-26": _Stack("hat-ai", "0x2864", "HAILO8"),
}
# Name in the lock's Hailo set → key in hardware.hat.
_VERSIONS = {"driver": "driver_version_loaded", "library": "library_version", "firmware": "firmware_version"}
_MAXIMUM_PAGE = 4096
# Parameters of each line of drivers (facts §3.5); another one is passed over by the kernel, with a word in its log.
_PARAMETERS = {
    "hailo1x_pci": {"o_dbg", "no_power_mode", "force_desc_page_size", "force_hailo10h_legacy_mode",
                    "support_soft_reset", "force_hailo_pcie_boot_mode_over_bars"},
    "hailo_pci": {"o_dbg", "no_power_mode", "force_desc_page_size", "force_hailo10h_legacy_mode", "support_soft_reset",
                  "force_allocation_from_driver", "force_boot_linux_from_eemc"},
}  # fmt: skip


def module(wanted: str) -> dict[str, str]:
    """``{"own", "other"}``: the kernel module of the HAT, and the one that must stay away."""
    chip = hat_chain.CHIPS[_STACKS[wanted].device]
    return {"own": chip.module, "other": chip.other}


def options(wanted: str, *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Module options of fleet, group and host, the nearest winning.

    Raises:
        UsageError: no such parameter, or descriptor pages that the chip has not (F11).
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= layer
    name = module(wanted)["own"]
    unknown = sorted(merged.keys() - _PARAMETERS[name])
    if unknown:
        raise UsageError(
            f"{name} has no parameter {', '.join(unknown)}",
            where="hat_module_options",
            next_step=f"one of: {', '.join(sorted(_PARAMETERS[name]))}",
        )
    size = merged.get("force_desc_page_size")
    if size is not None and not (isinstance(size, int) and 0 < size <= _MAXIMUM_PAGE and size & (size - 1) == 0):
        raise UsageError(
            f"force_desc_page_size cannot be {size!r}: chips have powers of two up to {_MAXIMUM_PAGE} (F11)",
            where="hat_module_options",
            next_step=f"force_desc_page_size: {_MAXIMUM_PAGE}",
        )
    return {key: int(value) if isinstance(value, bool) else value for key, value in sorted(merged.items())}


def options_waiting(facts: Mapping[str, Any], wanted: str, merged: Mapping[str, Any]) -> list[str]:
    """Options that the loaded module was not loaded with; a sentence each (F11)."""
    own = module(wanted)["own"]
    loaded = facts["npu"]["loaded"].get(own)
    if loaded is None:
        return []
    # A boolean reads Y and N in sysfs.
    have = {key: {"Y": "1", "N": "0"}.get(value, value) for key, value in loaded["parameters"].items()}
    return [
        f"{own} runs with {key}={have[key]}; {key}={value} holds when it is loaded anew: reboot, or "
        "playbooks/recover_npu.yml"
        for key, value in merged.items()
        if key in have and have[key] != str(value)
    ]


def plan(facts: Mapping[str, Any], release: Mapping[str, Any], wanted: str) -> dict[str, Any]:
    """What is missing and what is in the way, from the facts alone.

    ``build`` and ``stack``: packages for apt, with versions where the lock has them, empty if nothing is missing.
    ``foreign``: packages of another stack. ``stray``: module files of the other stack, which no package of it explains.
    ``install_lines``: modprobe.d's that keep Hailo's modules from loading. ``unbuilt``: kernels that have headers and
    no module. ``module`` is None without a HAT.
    """
    packages: Mapping[str, str] = facts["packages"]
    npu = facts["npu"]
    known = {*pins.HAILO8_PACKAGES, *pins.HAILO10_PACKAGES}
    own = None if wanted == "none" else module(wanted)
    locked = {} if wanted == "none" else dict((pins.stack(release, wanted) or {}).get("packages") or {})
    if own is not None and not locked:
        locked = {hat_chain.CHIPS[_STACKS[wanted].device].package: None}
    build = {} if own is None else _build_packages(facts, release)
    stack_missing = bool(locked.keys() - packages.keys())
    foreign = sorted(name for name in packages if name in _foreign(wanted, known, locked))
    modules = {"hailo_pci", "hailo1x_pci"} if own is None else {own["other"]}
    return {
        "module": own,
        "build": _for_apt({name: version for name, version in build.items() if name not in packages}),
        # All of it, so that driver and library come in one transaction (F1).
        "stack": _for_apt(locked) if stack_missing else [],
        "foreign": foreign,
        "stray": [] if foreign else _stray(npu, modules),
        "install_lines": npu["modprobe"]["install_lines"],
        "unbuilt": [] if own is None else _unbuilt(facts, own["own"]),
    }


def unloaded(facts: Mapping[str, Any], wanted: str) -> bool:
    """Whether the module is there for the running kernel, and not in it."""
    npu, own = facts["npu"], module(wanted)["own"]
    here = npu["kernels"].get(npu["kernel"], {"modules": {}})
    return npu["device"] == _STACKS[wanted].device and own in here["modules"] and own not in npu["loaded"]


def refuse_foreign(found: Sequence[str], wanted: str, *, purge: bool) -> list[str]:
    """The packages to purge; refused unless that was asked (F5: they install cleanly and never bind).

    Raises:
        RefusedError: there are such packages and nobody asked to remove them.
    """
    if found and not purge:
        what = "this board has no HAT" if wanted == "none" else f"{wanted} never works with it"
        raise RefusedError(
            f"another NPU's stack is installed ({', '.join(found)}); {what} (F5)",
            where="hat_purge_wrong_stack",
            next_step=f"sudo apt-get purge {' '.join(found)}, or run again with -e hat_purge_wrong_stack=true",
        )
    return list(found)


def verdict(
    facts: Mapping[str, Any], wanted: str, release: Mapping[str, Any], group: str | None = None
) -> dict[str, Any]:
    """``{"text": one line, "problems": [text], "remarks": [text], "chain": verdict, "lines": [text]}``.

    ``wanted`` is the inventory's ``hat``; ``group`` is who may use the node. Facts without ``npu`` prove less.
    """
    hat = facts["hardware"]["hat"]
    chain = hat_chain.prove(facts["hardware"], facts.get("npu"), group=group)
    problem = _presence(hat, wanted)
    if problem is None and wanted != "none":
        problem = chain["text"] if not chain["ok"] else _architecture(hat, wanted) or _lock(hat, release, wanted)
    remarks = [f"{entry['link']}: {_remark(entry)}" for entry in chain["warnings"]]
    healthy = "no HAT, as the inventory says" if wanted == "none" else f"HAT {wanted}: {chain['text']}"
    return {
        "text": healthy if problem is None else f"HAT {wanted}: not as it should be",
        "problems": [] if problem is None else [problem],
        "remarks": remarks,
        "chain": chain,
        "lines": list(hat_chain.lines(chain)),
    }


def _remark(entry: Mapping[str, Any]) -> str:
    failure = f" ({entry['failure']})" if entry["failure"] else ""
    return f"{entry['says']}{failure}" + (f". Next: {entry['next']}" if entry["next"] else "")


def _presence(hat: Mapping[str, Any], wanted: str) -> str | None:
    expected = "none" if wanted == "none" else _STACKS[wanted].kind
    if hat["kind"] == expected:
        return None
    if hat["kind"] == "none":
        return (
            f"no NPU on the PCIe bus, the inventory says {wanted}. Seat the ribbon cable and the 40-pin header; "
            f"without the header the HAT's EEPROM is not read and the lane stays off (F30). A chip that was there "
            f"before comes back when the power is switched off and on."
        )
    return f"the board has {hat['kind']}, the inventory says {wanted}. Correct hat in the inventory."


def _architecture(hat: Mapping[str, Any], wanted: str) -> str | None:
    """8 and 8L share a PCI id; what identify says tells them apart, where somebody was there to say it."""
    expected = _STACKS[wanted].architecture
    if hat["architecture"] in {None, expected}:
        return None
    return f"the chip is {hat['architecture']}, {wanted} has {expected}. Correct hat in the inventory."


def _lock(hat: Mapping[str, Any], release: Mapping[str, Any], wanted: str) -> str | None:
    lock = release[pins.STACKS[wanted]]
    others = [
        f"{name} is {hat[key]}, the lock says {lock[name]}"
        for name, key in _VERSIONS.items()
        if hat[key] is not None and lock[name] is not None and hat[key] != lock[name]
    ]
    if not others:
        return None
    return (
        f"{'; '.join(others)}. Bring it to the lock: ansible-playbook playbooks/upgrade.yml; or change "
        f"fleet_release.{pins.STACKS[wanted]}."
    )


def _build_packages(facts: Mapping[str, Any], release: Mapping[str, Any]) -> dict[str, str | None]:
    """dkms, and headers of what runs and of what the next boot takes (F6); the metapackage brings later ones."""
    running = facts["hardware"]["kernel"]["release"]
    kernels = {running, reboot.pending_kernel(running, facts["packages"])} - {None}
    headers, kernel = release["headers"], release["kernel"]
    found: dict[str, str | None] = {"dkms": release["dkms"]["version"]}
    found[headers["package"] or f"linux-headers-{_flavour(running)}"] = headers["deb"]
    for name in sorted(kernels):
        ours = kernel["version"] is not None and name.startswith(f"{kernel['version']}+")
        if re.search(r"\+rpt-rpi-", name):
            found[f"linux-headers-{name}"] = headers["deb"] if ours else None
    return found


def _flavour(running: str | None) -> str:
    return "rpi-v8" if str(running).endswith("-rpi-v8") else "rpi-2712"


def _unbuilt(facts: Mapping[str, Any], own: str) -> list[str]:
    """Kernels of dkms' concern without the module: what runs and what comes; not every old one."""
    running = facts["hardware"]["kernel"]["release"]
    kernels = [running, reboot.pending_kernel(running, facts["packages"])]
    added = any(name.startswith(f"{own}/") for name in facts["npu"]["dkms"])
    known = facts["npu"]["kernels"]
    return [
        name
        for name in dict.fromkeys(kernels)
        if added and name in known and known[name]["headers"] and own not in known[name]["modules"]
    ]


def _foreign(wanted: str, known: set[str], locked: Mapping[str, Any]) -> set[str]:
    if wanted == "none":
        return known
    other = pins.HAILO8_PACKAGES if pins.STACKS[wanted] == "hailo_10h" else pins.HAILO10_PACKAGES
    return {name for name in other if name not in locked}


def _stray(npu: Mapping[str, Any], modules: set[str]) -> list[str]:
    return sorted(
        f"/lib/modules/{kernel}/{file}"
        for kernel, found in npu["kernels"].items()
        for name, file in found["modules"].items()
        if name in modules
    )


def _for_apt(packages: Mapping[str, str | None]) -> list[str]:
    return [name if version is None else f"{name}={version}" for name, version in packages.items()]
