"""What the archive has: the suite that a board's ``raspi.sources`` names, one for upgrades, and what an image has.

``trixie`` stands for Raspberry Pi's archive. Whether that keeps older versions is not known (facts §1.3); this one
does, so that a lock may go back. ``trixie-next`` stands for a fleet's own mirror, where tests find versions to come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hedgerow.emulator.archive import dkms, eeprom, hailo, kernel
from hedgerow.emulator.archive.build import StandIn


@dataclass(frozen=True, slots=True)
class Suite:
    """``suite`` is apt's archive name (``a=``); the codename (``n=``) is the suite's key in ``SUITES``."""

    origin: str
    label: str
    suite: str
    packages: tuple[StandIn, ...]


SUITES: Mapping[str, Suite] = {
    # Origin and label: seen in apt-cache policy of field units; Suite of the trixie archive: that of its forerunners.
    "trixie": Suite(
        "Raspberry Pi Foundation",
        "Raspberry Pi Foundation",
        "stable",
        (
            *(package for version in kernel.VERSIONS for package in kernel.packages(version)),
            *kernel.FIRMWARE,
            *eeprom.PACKAGES,
            *dkms.PACKAGES,
            *hailo.PACKAGES,
        ),
    ),
    "trixie-next": Suite(
        "Hedgerow",
        "Stand-in of a fleet's own mirror",
        "trixie-next",
        (
            *(package for version in kernel.NEXT_VERSIONS for package in kernel.packages(version)),
            *kernel.NEXT_FIRMWARE,
            *eeprom.NEXT_PACKAGES,
            *hailo.NEXT_PACKAGES,
        ),
    ),
}

# What Raspberry Pi OS Lite has installed of the archive (facts §1.2): both flavours; neither dkms nor a HAT's stack.
BASE = (
    f"linux-image-rpi-2712={kernel.deb_version(kernel.BASE_VERSION)}",
    f"linux-image-rpi-v8={kernel.deb_version(kernel.BASE_VERSION)}",
    f"linux-headers-rpi-2712={kernel.deb_version(kernel.BASE_VERSION)}",
    f"linux-headers-rpi-v8={kernel.deb_version(kernel.BASE_VERSION)}",
    f"raspi-firmware={kernel.BASE_FIRMWARE}",
    f"rpi-eeprom={eeprom.BASE_VERSION}",
)
