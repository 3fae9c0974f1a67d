"""From the version lock to apt's pins, holds and transactions, and back: is what is installed what is pinned?

The lock (``fleet_release``) is one matrix; a null in it pins nothing. Whether a
combination is allowed at all is ``hedgerow.release``'s question, which this
module leaves alone: it carries out the lock and tells drift. Versions are
exact; only the ``+bN`` of a rebuild, which differs by architecture, is passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hedgerow.converge import reboot

# Row of the lock by the inventory's `hat`; 8 and 8L share one stack (facts §3.1).
STACKS = {"hat-plus-2": "hailo_10h", "hat-plus-13": "hailo_8", "hat-plus-26": "hailo_8"}
# Facts §3.2: both sets install cleanly on any Pi, carry the same version number, and the wrong one never binds (F5).
HAILO10_PACKAGES = ("hailo-h10-all", "h10-hailort", "h10-hailort-pcie-driver", "python3-h10-hailort")
HAILO8_PACKAGES = ("hailo-all", "hailo-dkms", "hailofw", "hailort", "hailort-pcie-driver", "python3-hailort")
_OTHER_STACK = {"hailo_10h": HAILO8_PACKAGES, "hailo_8": HAILO10_PACKAGES}
# Raspberry Pi OS installs both flavours, built from one source at one version (facts §1.2, §1.4).
_FLAVOURS = ("rpi-2712", "rpi-v8")
KERNEL_META = tuple(f"linux-{part}-{flavour}" for flavour in _FLAVOURS for part in ("image", "headers"))
_VERSIONED = re.compile(r"^linux-(?:image|headers|kbuild)-(\d+\.\d+\.\d+)\+rpt")
_REBUILD = re.compile(r"\+b\d+")
MENDER_PACKAGES = {"debian": ("mender-client",), "upstream": ("mender-auth", "mender-update")}
# What of a menderised image belongs to the artifact, not to apt (F24).
_IMAGE_ROWS = ("kernel", "boot files")


@dataclass(frozen=True, slots=True)
class Pin:
    """One stanza of apt_preferences(5), and why it stands there."""

    why: str
    packages: tuple[str, ...]
    pin: str
    priority: int


@dataclass(frozen=True, slots=True)
class Row:
    """Packages that change in one transaction, and why together. ``rebuilt``: Debian adds +bN by architecture."""

    name: str
    why: str
    packages: Mapping[str, str]
    rebuilt: bool = False


def stack(release: Mapping[str, Any], hat: str) -> Mapping[str, Any] | None:
    """The lock's Hailo set for the inventory's ``hat``; None for a board without one."""
    row = STACKS.get(hat)
    return None if row is None else release[row]


def rows(release: Mapping[str, Any], hat: str) -> list[Row]:
    """What the lock says of packages, in the order in which they are installed.

    Bootloader images come before the kernel that may need them (F29), headers with the kernel (F6), both before the
    driver that is built with them, and the driver together with its library (F1).
    """
    own = stack(release, hat)
    client = release["mender_client"]
    found = [
        Row(
            "bootloader",
            "Images for the EEPROM; flashing one is role boot_config's.",
            _one("rpi-eeprom", release["eeprom"]["version"]),
        ),
        Row(
            "kernel",
            "A kernel without its headers has no driver for the HAT after the next boot (F6).",
            _kernel(release["kernel"], release["headers"]),
        ),
        Row(
            "boot files",
            "Firmware and device trees of the boot partition; Debian has another package of this name.",
            _one("raspi-firmware", release["raspi_firmware"]["version"]),
        ),
        Row("dkms", "Builds the HAT's driver for each kernel.", _one("dkms", release["dkms"]["version"])),
        Row(
            "HAT",
            "Driver and library refuse each other unless major, minor and revision are equal (F1).",
            {} if own is None else own["packages"],
        ),
        Row(
            "Mender",
            "The client's state format changes between major versions.",
            dict.fromkeys(MENDER_PACKAGES[client["variant"]], client["version"]),
            rebuilt=client["variant"] == "debian",
        ),
    ]
    return [row for row in found if row.packages]


def locked(release: Mapping[str, Any], hat: str) -> dict[str, str]:
    """Package → version of everything that the lock pins on a board with this ``hat``."""
    return {name: version for row in rows(release, hat) for name, version in row.packages.items()}


def pins(release: Mapping[str, Any], hat: str) -> list[dict[str, Any]]:
    """Stanzas for ``/etc/apt/preferences.d``. Of those that name a version of a package, apt takes the first."""
    found = [
        Pin(row.why, tuple(sorted(names)), f"version {_pattern(version) if row.rebuilt else version}", 1001)
        for row in rows(release, hat)
        for version, names in _by_version(row.packages)
    ]
    everything = tuple(sorted(locked(release, hat)))
    if everything:
        # Without it apt would take the archive's newest once the locked version is gone from there.
        found.append(Pin("No other version of what the lock names.", everything, "release *", -1))
    blocked = _blocked(release, hat)
    if blocked:
        # Facts §3.2: `hailort` 4.23 of the archive would replace a 5.x of that name.
        why = f"The other NPU's stack: it installs cleanly beside {hat} and never binds (F5)."
        found.append(Pin(why, blocked, "release *", -1))
    return [asdict(pin) for pin in found]


def holds(release: Mapping[str, Any], hat: str, packages: Mapping[str, str], held: Sequence[str]) -> dict[str, Any]:
    """``{"hold": names, "release": names}``: what of the installed packages is to be put on hold, and let go.

    Metapackages and versioned packages, because each alone lets apt move the other (F6). Let go are kernels that
    the lock no longer names; holds of an operator's own are not touched.
    """
    names = locked(release, hat)
    stale = [name for name in held if _VERSIONED.match(name) and name not in names] if _pins_kernel(release) else []
    return {"hold": sorted((packages.keys() & names.keys()) - set(held)), "release": sorted(stale)}


def transactions(release: Mapping[str, Any], hat: str, packages: Mapping[str, str]) -> list[dict[str, Any]]:
    """What apt has to do, in order, so that what is installed becomes what is pinned.

    Each is ``{"name", "install": {package: version}, "remove": [package], "rebuilt": bool}``. Removed are kernels
    newer than the lock's: firmware boots the newest one, whatever the metapackage says.
    """
    found = []
    for row in rows(release, hat):
        differing = {name: wanted for name, wanted in row.packages.items() if not _right(packages, name, wanted)}
        remove = _newer_kernels(release, packages) if row.name == "kernel" else []
        if differing or remove:
            # The whole row, so that one that needs the others is never moved alone.
            install = {name: wanted for name, wanted in row.packages.items() if name in packages}
            found.append({"name": row.name, "install": install, "remove": remove, "rebuilt": row.rebuilt})
    return found


def not_by_apt(release: Mapping[str, Any], planned: Sequence[Mapping[str, Any]]) -> list[str]:
    """Transactions that would break a host whose root filesystem Mender replaces, a sentence each (F24)."""
    if release["mender_client"]["integration"] != "rootfs":
        return []
    return [
        f"{one['name']}: {', '.join([*one['install'], *one['remove']])} belong to the image that Mender deploys; their "
        f"scripts write boot files outside its two partitions and the board may not boot again (F24). "
        f"Deploy an artifact that has them."
        for one in planned
        if one["name"] in _IMAGE_ROWS
    ]


def drift(release: Mapping[str, Any], hat: str, facts: Mapping[str, Any]) -> list[str]:
    """Where the host differs from the lock, of what is installed; a sentence each."""
    packages: Mapping[str, str] = facts["packages"]
    found = [
        f"{name} is {packages[name]}, the lock says {wanted}"
        for name, wanted in locked(release, hat).items()
        if not _right(packages, name, wanted)
    ]
    found += [
        f"{name} is installed; it is the other NPU's stack and never binds beside {hat} (F5)"
        for name in _blocked(release, hat)
        if name in packages
    ]
    found += [
        f"{name} is newer than the lock's kernel {release['kernel']['version']}, and firmware boots the newest"
        for name in _newer_kernels(release, packages)
    ]
    return found + _kernel_drift(release, facts["hardware"]["kernel"]["release"], packages)


def remarks(facts: Mapping[str, Any], release: Mapping[str, Any], hat: str) -> list[str]:
    """What an operator should know and nobody must act on; a sentence each."""
    found = [f"differs from the lock: {text}" for text in drift(release, hat, facts)]
    for row, member in (("kernel", "package"), ("raspi_firmware", "version"), ("eeprom", "version")):
        if release[row][member] is None:
            found.append(f"this fleet's lock pins no {row} (fleet_release.{row}.{member} is null)")
    versioned = {name for name in locked(release, hat) if _VERSIONED.match(name) or name in KERNEL_META}
    own = {release["kernel"]["package"], release["headers"]["package"]}
    absent = sorted((locked(release, hat).keys() - versioned | own - {None}) - facts["packages"].keys())
    if absent:
        found.append(f"pinned, not installed, so not checked: {', '.join(absent)}")
    pending = reboot.pending_kernel(facts["hardware"]["kernel"]["release"], facts["packages"])
    if pending is not None:
        found.append(f"kernel {pending} is installed and waits for a reboot (F46)")
    return found


def on_device(release: Mapping[str, Any], hat: str) -> str:
    """``/etc/hedgerow/pins.json``: what the device's exporter compares dpkg with (``hedgerow.device.pinned``)."""
    kernel = release["kernel"]
    lock = {
        "release": release["name"],
        "packages": locked(release, hat),
        "blocked": list(_blocked(release, hat)),
        "kernel": None if kernel["version"] is None else f"{kernel['version']}+rpt-{kernel['flavour']}",
    }
    return json.dumps(lock, indent=2, sort_keys=True) + "\n"


def same(wanted: str, have: str) -> bool:
    """Whether two Debian versions are equal but for the ``+bN`` of a rebuild."""
    return have == wanted or (have.startswith(wanted) and _REBUILD.fullmatch(have.removeprefix(wanted)) is not None)


def _one(name: str, version: str | None) -> dict[str, str]:
    return {} if version is None else {name: version}


def _kernel(kernel: Mapping[str, Any], headers: Mapping[str, Any]) -> dict[str, str]:
    """Metapackages of both flavours, and the versioned packages that they lead to (facts §1.4)."""
    if kernel["package"] is None or kernel["deb"] is None:
        return {}
    if kernel["package"] not in KERNEL_META:
        return {kernel["package"]: kernel["deb"]} | _one(headers["package"], headers["deb"])
    version = kernel["version"]
    names = [*KERNEL_META, f"linux-headers-{version}+rpt-common-rpi", f"linux-kbuild-{version}+rpt"]
    names += [f"linux-{part}-{version}+rpt-{flavour}" for flavour in _FLAVOURS for part in ("image", "headers")]
    return {name: headers["deb"] or kernel["deb"] if "-headers-" in name else kernel["deb"] for name in names}


def _blocked(release: Mapping[str, Any], hat: str) -> tuple[str, ...]:
    """Packages of the other NPU's stack, but for names that the lock gives to this one (5.4's ``hailort``)."""
    row = STACKS.get(hat)
    return () if row is None else tuple(name for name in _OTHER_STACK[row] if name not in release[row]["packages"])


def _by_version(packages: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    for version in dict.fromkeys(packages.values()):
        yield version, [name for name, its in packages.items() if its == version]


def _pattern(version: str) -> str:
    """A regular expression of apt's for ``version`` and its rebuilds."""
    return "/^" + re.sub(r"([.+*?()\[\]{}^$|\\])", r"\\\1", version) + r"(\+b[0-9]+)?$/"


def _right(packages: Mapping[str, str], name: str, wanted: str) -> bool:
    return name not in packages or same(wanted, packages[name])


def _pins_kernel(release: Mapping[str, Any]) -> bool:
    return release["kernel"]["package"] is not None and release["kernel"]["version"] is not None


def _newer_kernels(release: Mapping[str, Any], packages: Mapping[str, str]) -> list[str]:
    if not _pins_kernel(release):
        return []
    lock = reboot.numbers(release["kernel"]["version"])
    found = [(name, match[1]) for name in packages if (match := _VERSIONED.match(name))]
    return sorted(name for name, version in found if reboot.numbers(version) > lock)


def _kernel_drift(release: Mapping[str, Any], running: str | None, packages: Mapping[str, str]) -> list[str]:
    """The running kernel, where no reboot would bring the locked one."""
    kernel = release["kernel"]
    if kernel["version"] is None or running is None:
        return []
    flavour = kernel["flavour"]
    # Facts §1.1: Raspberry Pi's kernels alone are called so; those of other systems bring their own driver (F43).
    if "+rpt-rpi-" not in running:
        return [f"the kernel {running} runs, which is not Raspberry Pi's (F43)"]
    if flavour is not None and not running.endswith(f"-{flavour}"):
        return [f"the kernel {running} runs, the lock says flavour {flavour} (page size differs)"]
    wanted = f"{kernel['version']}+rpt-{flavour or running.partition('+rpt-')[2]}"
    if running == wanted or f"linux-image-{wanted}" in packages:
        return []
    return [f"the kernel {running} runs, the lock says {kernel['version']}"]
