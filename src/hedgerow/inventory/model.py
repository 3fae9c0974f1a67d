"""What an inventory says, as frozen values (docs/contracts.md, "Hosts of the embedded default").

These structs and ``inventory/schema.json`` describe the same keys; a test holds
the two together. Nothing here does IO.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from hedgerow import paths

Hat = Literal["none", "hat-plus-13", "hat-plus-26", "hat-plus-2"]
Cooling = Literal["active", "passive"]
Storage = Literal["sd", "usb-ssd", "nvme"]


class _Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of the version lock; None means "not pinned on this fleet"."""


class OsRelease(_Pin, frozen=True):
    """``ID`` and ``VERSION_CODENAME`` of /etc/os-release; 64-bit Raspberry Pi OS calls itself debian."""

    distribution: str
    suite: str


class KernelPin(_Pin, frozen=True):
    """The kernel metapackage, the Debian version of it, and the flavour that ``uname -r`` ends in."""

    package: str | None
    version: str | None
    flavour: str | None


class EepromPin(_Pin, frozen=True):
    """``FIRMWARE_RELEASE_STATUS`` of rpi-eeprom-update, and the oldest bootloader build allowed (a date)."""

    channel: str | None
    minimum: str | None


class HailoPin(_Pin, frozen=True):
    """HailoRT: driver and library must match in major, minor and revision, or every call fails."""

    driver: str | None
    library: str | None
    firmware: str | None


class MenderPin(_Pin, frozen=True):
    """Debian version of ``mender-client`` without the ``+bN`` of a rebuild, which differs by architecture."""

    version: str


class RuntimePin(_Pin, frozen=True):
    """Hedgerow's own version on devices, and the Python it runs on (``major.minor``)."""

    version: str
    python: str


class AppArmorPin(_Pin, frozen=True):
    """The feature ABI that our profiles are written against (``abi <abi/4.0>``)."""

    abi: str


class FleetRelease(_Pin, frozen=True):
    """The version lock: one matrix, changed and checked as a whole."""

    name: str
    os: OsRelease
    kernel: KernelPin
    eeprom: EepromPin
    hailort: HailoPin
    mender_client: MenderPin
    runtime: RuntimePin
    apparmor: AppArmorPin


class Host(msgspec.Struct, frozen=True):
    """One device.

    ``address`` is where SSH reaches it (``ansible_host``), ``serial`` the board's 16 hex digits.
    ``vars`` is every variable of the host as Ansible sees it, unrendered.
    """

    name: str
    address: str
    groups: tuple[str, ...]
    site: str
    serial: str
    hat: Hat
    cooling: Cooling
    storage: Storage
    labels: dict[str, str] = {}
    emulated: bool = False
    vars: dict[str, Any] = {}

    @property
    def is_gateway(self) -> bool:
        return "gateways" in self.groups

    @property
    def port(self) -> int:
        """SSH port."""
        return int(self.vars.get("ansible_port", 22))


class Inventory(msgspec.Struct, frozen=True):
    """A fleet. ``hosts`` keeps the inventory's order; ``vars`` holds what is the same on every host."""

    fleet: str
    path: Path
    hosts: dict[str, Host]
    groups: dict[str, tuple[str, ...]]
    release: FleetRelease
    vars: dict[str, Any] = {}

    @property
    def admin_user(self) -> str:
        return str(self.vars["admin_user"])

    @property
    def pis(self) -> list[Host]:
        """The hosts that serve models."""
        return [self.hosts[name] for name in self.groups.get("pis", ())]

    @property
    def gateways(self) -> list[Host]:
        return [self.hosts[name] for name in self.groups.get("gateways", ())]

    @property
    def sites(self) -> dict[str, tuple[str, ...]]:
        """Site name → names of its hosts."""
        prefix = "site_"
        return {name.removeprefix(prefix): hosts for name, hosts in self.groups.items() if name.startswith(prefix)}

    @property
    def ssh_key(self) -> Path:
        """The admin user's private key; made by ``deploy/bootstrap.py``."""
        return paths.fleet_dir(self.fleet) / "ssh" / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The pinned host keys; written by ``deploy/bootstrap.py`` alone."""
        return paths.fleet_dir(self.fleet) / "ssh" / "known_hosts"
