"""From the version lock to apt's pins and holds, and back: is what is installed what is pinned?

The lock (``fleet_release``) is one matrix; a null in it pins nothing. Whether a
combination is allowed at all is the compatibility solver's question, which this
module leaves alone: it carries out the lock and tells drift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# Facts §3.2: both sets install cleanly on any Pi, carry the same version number, and the wrong one never binds.
HAILO10_PACKAGES = ("hailo-h10-all", "h10-hailort", "h10-hailort-pcie-driver", "python3-h10-hailort")
HAILO8_PACKAGES = ("hailo-all", "hailo-dkms", "hailofw", "hailort", "hailort-pcie-driver", "python3-hailort")
# hailo-all has a version of its own (5.1.1 beside hailort 4.23.0), so it is held but not pinned.
_HAILO8_PINNED = ("hailort", "hailort-pcie-driver", "python3-hailort")
# hat → packages at the lock's driver version, packages of the other stack.
_HATS = {
    "hat-plus-2": (HAILO10_PACKAGES, HAILO8_PACKAGES),
    "hat-plus-13": (_HAILO8_PINNED, HAILO10_PACKAGES),
    "hat-plus-26": (_HAILO8_PINNED, HAILO10_PACKAGES),
}
# Facts §1.4: a held kernel beside unheld headers is the usual way to lose the DKMS module (F6).
KERNEL_PACKAGES = (
    "linux-image-rpi-2712",
    "linux-headers-rpi-2712",
    "linux-image-rpi-v8",
    "linux-headers-rpi-v8",
    "raspi-firmware",
)


@dataclass(frozen=True, slots=True)
class Pin:
    """One stanza of apt_preferences(5), and why it stands there."""

    why: str
    packages: tuple[str, ...]
    pin: str
    priority: int


def pins(release: Mapping[str, Any], hat: str) -> list[dict[str, Any]]:
    """Stanzas for ``/etc/apt/preferences.d``: wanted versions above 1000 (downgrades too), the wrong stack below 0."""
    found = [
        Pin(
            "Mender's client is Debian's; the state format changes between major versions.",
            ("mender-client",),
            f"version {release['mender_client']['version']}*",
            1001,
        )
    ]
    right, wrong = _HATS.get(hat, ((), ()))
    driver = release["hailort"]["driver"]
    if right and driver is not None:
        found.append(
            Pin(
                "Driver and library refuse each other unless major, minor and revision are equal.",
                right,
                f"version {driver}*",
                1001,
            )
        )
    if wrong:
        found.append(
            Pin(
                f"The other NPU's stack: it installs cleanly beside {hat} and never binds.",
                wrong,
                "release *",
                -1,
            )
        )
    return [asdict(pin) for pin in found]


def to_hold(release: Mapping[str, Any], packages: Mapping[str, str], holds: list[str]) -> list[str]:
    """Installed packages of the lock that are not on hold yet."""
    locked = {*KERNEL_PACKAGES} if release["kernel"]["package"] is not None else set()
    if release["hailort"]["driver"] is not None:
        locked |= {*HAILO10_PACKAGES, *HAILO8_PACKAGES}
    version = release["kernel"]["version"]
    held = {
        name
        for name in packages
        if name in locked
        or (version is not None and name.startswith(("linux-image-", "linux-headers-")) and version in name)
    }
    return sorted(held - set(holds))


def drift(release: Mapping[str, Any], hat: str, facts: Mapping[str, Any]) -> list[str]:
    """Where the host differs from the lock, of what is installed; a sentence each."""
    packages: Mapping[str, str] = facts["packages"]
    found = []
    for pin in pins(release, hat):
        if not pin["pin"].startswith("version "):
            found += [f"{name} is installed; {pin['why']}" for name in pin["packages"] if name in packages]
            continue
        wanted = pin["pin"].removeprefix("version ").removesuffix("*")
        found += [
            f"{name} is {packages[name]}, the lock says {wanted}"
            for name in pin["packages"]
            if name in packages and not packages[name].startswith(wanted)
        ]
    kernel, running = release["kernel"], facts["hardware"]["kernel"]["release"]
    if kernel["version"] is not None and running is not None:
        wanted = f"{kernel['version']}+"
        if not running.startswith(wanted):
            found.append(f"the kernel {running} runs, the lock says {kernel['version']}")
        elif kernel["flavour"] is not None and not running.endswith(kernel["flavour"]):
            found.append(f"the kernel {running} runs, the lock says flavour {kernel['flavour']} (page size differs)")
    return found


def remarks(facts: Mapping[str, Any], release: Mapping[str, Any], hat: str) -> list[str]:
    """What an operator should know and nobody must act on; a sentence each."""
    found = [f"differs from the lock: {text}" for text in drift(release, hat, facts)]
    if release["kernel"]["package"] is None:
        found.append("this fleet's lock pins no kernel (fleet_release.kernel.package is null)")
    if release["eeprom"]["channel"] is None:
        found.append("this fleet's lock pins no bootloader (fleet_release.eeprom.channel is null)")
    absent = [name for pin in pins(release, hat) if pin["priority"] > 0 for name in pin["packages"]]
    absent = [name for name in absent if name not in facts["packages"]]
    if absent:
        found.append(f"pinned, not installed, so not checked: {', '.join(absent)}")
    return found
