"""Does the HAT of the inventory sit on the board, and does its stack agree with itself?

The chain is proven in order, and the first broken link is named, because what
comes after it fails for the same reason: PCI device, right driver, versions,
device node, firmware.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Facts §3.1 and §3.5: module, architecture that identify prints, metapackage. 8 and 8L share one PCI id.
_STACKS = {
    "hat-plus-2": ("hat-plus-2", "hailo1x_pci", {"HAILO10H"}, "hailo-h10-all"),
    "hat-plus-13": ("hat-ai", "hailo_pci", {"HAILO8L"}, "hailo-all"),
    "hat-plus-26": ("hat-ai", "hailo_pci", {"HAILO8"}, "hailo-all"),
}
# A chip that serves answers no second process; that is no fault of the stack (facts §3.7).
_BUSY = "HAILO_DEVICE_IN_USE(73)"
_FULL_SPEED_GTS = 8.0


def verdict(facts: Mapping[str, Any], wanted: str, release: Mapping[str, Any]) -> dict[str, Any]:
    """``{"text": one line, "problems": [text]}``; ``wanted`` is the inventory's ``hat``."""
    hat = facts["hardware"]["hat"]
    found = _problems(hat, wanted, release)
    if wanted == "none" and not found:
        text = "no HAT, as the inventory says"
    elif found:
        text = f"HAT {wanted}: not as it should be"
    else:
        versions = f"driver {hat['driver_version_loaded']}, library {hat['library_version']}, firmware {hat['firmware_version']}"
        text = (
            f"HAT {wanted}: {hat['architecture'] or 'busy'}, {versions}, {hat['node']}, "
            f"PCIe {hat['link_speed_gts']} GT/s x{hat['link_width']}{_slow(hat)}"
        )
    return {"text": text, "problems": found}


def _problems(hat: Mapping[str, Any], wanted: str, release: Mapping[str, Any]) -> list[str]:
    if wanted == "none":
        if hat["kind"] == "none":
            return []
        return [f"the board has a HAT ({hat['kind']}), the inventory says none. Correct hat in the inventory."]
    kind, module, architectures, package = _STACKS[wanted]
    if hat["kind"] == "none":
        return [
            f"no NPU on the PCIe bus, the inventory says {wanted}. Seat the ribbon cable and the 40-pin header; "
            f"without the header the HAT's EEPROM is not read and the lane stays off."
        ]
    if hat["kind"] != kind:
        return [f"the board has {hat['kind']}, the inventory says {wanted}. Correct hat in the inventory."]
    if hat["driver"] != module:
        return [
            f"the device is held by {hat['driver'] or 'no driver'}, {wanted} needs {module}. Look at: dkms status; "
            f"lsmod | grep hailo; it comes with {package}, built against the running kernel's headers."
        ]
    return [*_versions(hat, release), *_firmware(hat, architectures)]


def _versions(hat: Mapping[str, Any], release: Mapping[str, Any]) -> list[str]:
    have = {key: hat[key] for key in ("driver_version_loaded", "library_version", "firmware_version")}
    lock = release["hailort"]
    locked = dict(zip(have, (lock["driver"], lock["library"], lock["firmware"]), strict=True))
    if hat["mismatch"]:
        listed = ", ".join(f"{key.partition('_')[0]} {value or 'unknown'}" for key, value in have.items())
        return [
            f"driver, library and firmware differ ({listed}); every call will fail. Bring them to one version, then "
            f"switch the power off and on: firmware survives a warm reboot."
        ]
    return [
        f"{key.partition('_')[0]} is {value}, the lock says {locked[key]}. Install the locked version, or change "
        f"fleet_release.hailort."
        for key, value in have.items()
        if value is not None and locked[key] is not None and value != locked[key]
    ]


def _firmware(hat: Mapping[str, Any], architectures: set[str]) -> list[str]:
    if hat["node"] is None:
        return ["the driver made no device node. Look at: sudo dmesg | grep hailo"]
    if hat["error"] == _BUSY:
        return []
    if hat["error"] is not None:
        return [
            f"the chip does not answer: {hat['error']}. Look at: hailortcli fw-control identify; sudo dmesg | grep hailo"
        ]
    if hat["architecture"] not in architectures:
        return [f"the chip is {hat['architecture']}, the inventory's HAT has {' or '.join(sorted(architectures))}."]
    return []


def _slow(hat: Mapping[str, Any]) -> str:
    speed = hat["link_speed_gts"]
    return "" if speed is None or speed >= _FULL_SPEED_GTS else " (slow: is the 40-pin header seated?)"
