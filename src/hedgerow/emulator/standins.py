"""Stand-in Debian packages for what only Raspberry Pi's archive has: names, versions and relations are the real ones.

With them a role asks dpkg for the kernel and the HAT's software stack, pins and holds them as on a real board. They
carry the guest programs of ``guest/hat-stack``, and nothing of Hailo's and no kernel. Names: facts §1.4 and §3.2;
versions: what the archive ships (whether the kernel's have an epoch is not verified).
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hedgerow.emulator.board import KERNEL_RELEASE
from hedgerow.errors import MachineError

_SOURCES = Path(__file__).parent / "guest" / "hat-stack"


@dataclass(frozen=True, slots=True)
class StandIn:
    """One package: control fields, and files as target path → (name in hat-stack or None for an empty one, mode)."""

    name: str
    version: str
    relations: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, tuple[str | None, int]] = field(default_factory=dict)

    @property
    def filename(self) -> str:
        return f"{self.name}_{self.version}_all.deb"

    def control(self) -> str:
        fields = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": "all",
            "Maintainer": "Hedgerow emulator <nobody@localhost>",
            **self.relations,
            "Description": "stand-in of an emulated Pi; carries none of the vendor's software",
        }
        return "".join(f"{key}: {value}\n" for key, value in fields.items())


_KERNEL_VERSION = KERNEL_RELEASE.partition("+")[0] + "-1+rpt1"
KERNEL = (
    StandIn(f"linux-image-{KERNEL_RELEASE}", _KERNEL_VERSION),
    StandIn("linux-image-rpi-2712", _KERNEL_VERSION, {"Depends": f"linux-image-{KERNEL_RELEASE}"}),
    StandIn(f"linux-headers-{KERNEL_RELEASE}", _KERNEL_VERSION),
    StandIn("linux-headers-rpi-2712", _KERNEL_VERSION, {"Depends": f"linux-headers-{KERNEL_RELEASE}"}),
)

_DKMS = StandIn("dkms", "3.2.2-1~deb13u1", files={"usr/sbin/dkms": ("dkms", 0o755)})
_PYTHON = "usr/lib/python3/dist-packages/hailo_platform/__init__.py"

HAILO_10H = (
    _DKMS,
    StandIn(
        "h10-hailort",
        "5.1.1",
        {"Conflicts": "hailort", "Replaces": "hailort"},
        {"usr/bin/hailortcli": ("hailortcli", 0o755)},
    ),
    StandIn(
        "h10-hailort-pcie-driver",
        "5.1.1",
        {"Conflicts": "hailort-pcie-driver"},
        {"usr/src/hailo1x_pci-5.1.1/dkms.conf": (None, 0o644)},
    ),
    StandIn("python3-h10-hailort", "5.1.1-1", {"Depends": "h10-hailort"}, {_PYTHON: ("hailo_platform.py", 0o644)}),
    StandIn(
        "hailo-h10-all",
        "5.1.1",
        {"Depends": "h10-hailort, h10-hailort-pcie-driver, python3-h10-hailort", "Conflicts": "hailo-all"},
    ),
)

HAILO_8 = (
    _DKMS,
    StandIn("hailort", "4.23.0", files={"usr/bin/hailortcli": ("hailortcli", 0o755)}),
    StandIn("hailort-pcie-driver", "4.23.0", files={"usr/src/hailo_pci-4.23.0/dkms.conf": (None, 0o644)}),
    StandIn("python3-hailort", "4.23.0", {"Depends": "hailort"}, {_PYTHON: ("hailo_platform.py", 0o644)}),
    StandIn(
        "hailo-all",
        "5.1.1",
        {"Depends": "hailort, hailort-pcie-driver, python3-hailort", "Conflicts": "hailo-h10-all"},
    ),
)

# By image variant: which packages a host with that HAT has from its first boot.
STACKS: Mapping[str, tuple[StandIn, ...]] = {
    "none": KERNEL,
    "h10": (*KERNEL, *HAILO_10H),
    "h8": (*KERNEL, *HAILO_8),
}
VARIANTS: Mapping[str, str] = {"none": "none", "hat-plus-2": "h10", "hat-plus-13": "h8", "hat-plus-26": "h8"}


def build(package: StandIn, folder: Path) -> Path:
    """Build ``package`` into ``folder`` with dpkg-deb and return the file."""
    target = folder / package.filename
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        root = Path(temporary)
        root.chmod(0o755)
        (root / "DEBIAN").mkdir(mode=0o755)
        (root / "DEBIAN/control").write_text(package.control(), encoding="utf-8")
        for path, (source, mode) in package.files.items():
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"" if source is None else (_SOURCES / source).read_bytes())
            file.chmod(mode)
        done = subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(target)],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise MachineError(f"dpkg-deb failed: {done.stderr.strip()}", where=package.name)
    return target
