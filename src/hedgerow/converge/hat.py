"""Does the HAT of the inventory sit on the board, and does its stack agree with itself?

The chain is proven in order, and the first broken link is named, because what
comes after it fails for the same reason: PCI device, right driver, versions,
device node, firmware.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hedgerow.converge import pins


class _Stack(NamedTuple):
    kind: str  # as hedgerow.device.hardware tells kinds: by PCI id, which 8 and 8L share
    module: str
    architecture: str  # as identify prints it
    package: str


# Facts §3.1, §3.2, §3.5.
_STACKS = {
    "hat-plus-2": _Stack("hat-plus-2", "hailo1x_pci", "HAILO10H", "hailo-h10-all"),
    "hat-plus-13": _Stack("hat-ai", "hailo_pci", "HAILO8L", "hailo-all"),
    "hat-plus-26": _Stack("hat-ai", "hailo_pci", "HAILO8", "hailo-all"),
}
# Name in the lock's Hailo set → key in hardware.hat.
_VERSIONS = {"driver": "driver_version_loaded", "library": "library_version", "firmware": "firmware_version"}
# A chip that serves answers no second process; that is no fault of the stack (facts §3.7).
_BUSY = "HAILO_DEVICE_IN_USE(73)"
_FULL_SPEED_GTS = 8.0


def verdict(facts: Mapping[str, Any], wanted: str, release: Mapping[str, Any]) -> dict[str, Any]:
    """``{"text": one line, "problems": [text]}``; ``wanted`` is the inventory's ``hat``."""
    hat = facts["hardware"]["hat"]
    problem = _presence(hat, wanted)
    if problem is None and wanted != "none":
        problem = _driver(hat, wanted) or _versions(hat, release, wanted) or _firmware(hat, wanted)
    if problem is not None:
        return {"text": f"HAT {wanted}: not as it should be", "problems": [problem]}
    return {"text": "no HAT, as the inventory says" if wanted == "none" else _healthy(hat, wanted), "problems": []}


def _healthy(hat: Mapping[str, Any], wanted: str) -> str:
    speed = hat["link_speed_gts"]
    slow = speed is not None and speed < _FULL_SPEED_GTS
    parts = [
        hat["architecture"] or "busy",
        f"driver {hat['driver_version_loaded']}",
        f"library {hat['library_version']}",
        f"firmware {hat['firmware_version']}",
        hat["node"],
        f"PCIe {speed} GT/s x{hat['link_width']}" + (" (slow: is the 40-pin header seated?)" if slow else ""),
    ]
    return f"HAT {wanted}: {', '.join(parts)}"


def _presence(hat: Mapping[str, Any], wanted: str) -> str | None:
    expected = "none" if wanted == "none" else _STACKS[wanted].kind
    if hat["kind"] == expected:
        return None
    if hat["kind"] == "none":
        return (
            f"no NPU on the PCIe bus, the inventory says {wanted}. Seat the ribbon cable and the 40-pin header; "
            f"without the header the HAT's EEPROM is not read and the lane stays off."
        )
    return f"the board has {hat['kind']}, the inventory says {wanted}. Correct hat in the inventory."


def _driver(hat: Mapping[str, Any], wanted: str) -> str | None:
    stack = _STACKS[wanted]
    if hat["driver"] == stack.module:
        return None
    return (
        f"the device is held by {hat['driver'] or 'no driver'}, {wanted} needs {stack.module}, which comes with "
        f"{stack.package} and is built against the running kernel's headers. Look at: dkms status; lsmod | grep hailo"
    )


def _versions(hat: Mapping[str, Any], release: Mapping[str, Any], wanted: str) -> str | None:
    have = {name: hat[key] for name, key in _VERSIONS.items()}
    if hat["mismatch"]:
        listed = ", ".join(f"{name} {version or 'unknown'}" for name, version in have.items())
        return (
            f"driver, library and firmware differ ({listed}); every call will fail. Bring them to one version, then "
            f"switch the power off and on: firmware survives a warm reboot."
        )
    lock = release[pins.STACKS[wanted]]
    others = [
        f"{name} is {version}, the lock says {lock[name]}"
        for name, version in have.items()
        if version is not None and lock[name] is not None and version != lock[name]
    ]
    if not others:
        return None
    return f"{'; '.join(others)}. Install the locked versions, or change fleet_release.{pins.STACKS[wanted]}."


def _firmware(hat: Mapping[str, Any], wanted: str) -> str | None:
    if hat["node"] is None:
        return "the driver made no device node. Look at: sudo dmesg | grep hailo"
    if hat["error"] == _BUSY:
        return None
    if hat["error"] is not None:
        return f"the chip does not answer: {hat['error']}. Look at: sudo hailortcli fw-control identify"
    expected = _STACKS[wanted].architecture
    return None if hat["architecture"] == expected else f"the chip is {hat['architecture']}, {wanted} has {expected}."
