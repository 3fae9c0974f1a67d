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
    """The kernel metapackage with its Debian version, and what ``uname -r`` begins and ends with.

    ``version`` is ``6.18.50``, ``deb`` is ``1:6.18.50-1+rpt1``; ``page_size`` in bytes follows from the flavour.
    """

    package: str | None
    version: str | None
    deb: str | None
    flavour: str | None
    page_size: Literal[4096, 16384] | None


class HeadersPin(_Pin, frozen=True):
    """The headers metapackage: a kernel without its headers loses the HAT's driver (F6)."""

    package: str | None
    deb: str | None


class PackagePin(_Pin, frozen=True):
    """One package of a fixed name: its Debian version."""

    version: str | None


class EepromPin(_Pin, frozen=True):
    """The bootloader: package ``rpi-eeprom``, ``FIRMWARE_RELEASE_STATUS``, and the oldest build allowed (a date)."""

    version: str | None
    channel: str | None
    minimum: str | None


class HailoPin(_Pin, frozen=True):
    """HailoRT of one family of chips: driver, library and firmware must be equal, or every call fails (F1, F2).

    ``packages`` maps each Debian package of the set to its version; they change in one transaction.
    """

    driver: str | None
    library: str | None
    firmware: str | None
    packages: dict[str, str]


class MenderPin(_Pin, frozen=True):
    """Debian's ``mender-client`` or upstream's packages, and whether Mender also replaces the root filesystem.

    ``version`` is without the ``+bN`` of a rebuild, which differs by architecture.
    """

    variant: Literal["debian", "upstream"]
    integration: Literal["application", "rootfs"]
    version: str


class RuntimePin(_Pin, frozen=True):
    """Hedgerow's own version on devices, and the Python it runs on (``major.minor``)."""

    version: str
    python: str


class AppArmorPin(_Pin, frozen=True):
    """The feature ABI that our profiles are written against (``abi <abi/4.0>``)."""

    abi: str


class FleetRelease(_Pin, frozen=True):
    """The version lock: one matrix, changed and checked as a whole (docs/contracts.md, "Version lock").

    ``allow`` maps a rule of ``hedgerow.release`` to the reason why this fleet may break it.
    """

    name: str
    os: OsRelease
    kernel: KernelPin
    headers: HeadersPin
    raspi_firmware: PackagePin
    eeprom: EepromPin
    dkms: PackagePin
    hailo_10h: HailoPin
    hailo_8: HailoPin
    mender_client: MenderPin
    runtime: RuntimePin
    apparmor: AppArmorPin
    allow: dict[str, str] = {}


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

    @property
    def virtual_machine(self) -> bool:
        """Whether an emulated host has a kernel of its own, for arm64; the others are containers."""
        return self.emulated and self.vars.get("virtual_machine") is True

    @property
    def architecture(self) -> str | None:
        """As ``uname -m`` prints it on the host; None for containers, which have this machine's."""
        return None if self.emulated and not self.virtual_machine else "aarch64"


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
    def registry_stage(self) -> str:
        """The stage of the registry that the fleet's devices belong to."""
        return str(self.vars.get("registry_stage", paths.DEFAULT_STAGE))

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

    @property
    def host_authorities(self) -> Path:
        """The host CAs whose certificates count, where there are any; written by ``hedgerow ssh`` alone.

        A file of its own: pyinfra's SSH library stops reading a known_hosts at the first such line.
        """
        return paths.fleet_dir(self.fleet) / "ssh" / "known_hosts_ca"
