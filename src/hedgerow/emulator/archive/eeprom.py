"""``rpi-eeprom`` as Raspberry Pi packages it: the tools, their service, and images of bootloaders for BCM2712.

Paths and defaults: facts §2.6. Version 28.28-1 and its channel heads are real; so is the image of 2026-09-25, but not
the version of the package around it here, nor what the older package held.
"""

from __future__ import annotations

from hedgerow.emulator import eeprom
from hedgerow.emulator.archive.build import File, StandIn, guest_file, text

BASE_VERSION = "28.28-1"
FOLDER = "usr/lib/firmware/raspberrypi/bootloader-2712"

_DEFAULTS = """\

FIRMWARE_ROOT=/usr/lib/firmware/raspberrypi/bootloader
FIRMWARE_RELEASE_STATUS="default"
FIRMWARE_BACKUP_DIR="/var/lib/raspberrypi/bootloader/backup"
EEPROM_CONFIG_HOOK=

# BOOTFS can be set here to override auto-detection in rpi-eeprom-update
#BOOTFS=/boot

#RPI_EEPROM_IMMEDIATE_UPDATE=1
#STRICT_MIN_VER_CHECK=1
"""
# As debhelper enables a service: a mask of the administrator's is respected.
_POSTINST = """\
#!/bin/sh
set -e
if [ "$1" = configure ]; then
	if deb-systemd-helper --quiet was-enabled rpi-eeprom-update.service; then
		deb-systemd-helper enable rpi-eeprom-update.service >/dev/null || true
	else
		deb-systemd-helper update-state rpi-eeprom-update.service >/dev/null || true
	fi
fi
"""


def package(version: str, **channels: str) -> StandIn:
    """One version of the package; ``channels`` maps channel → date of its image."""
    files = {
        **{f"usr/bin/{name}": guest_file(f"eeprom/{name}") for name in ("rpi-eeprom-config", "rpi-eeprom-update")},
        "usr/bin/rpi-bootloader-version": guest_file("eeprom/rpi-bootloader-version"),
        "usr/lib/systemd/system/rpi-eeprom-update.service": guest_file("eeprom/rpi-eeprom-update.service"),
        "etc/default/rpi-eeprom-update": text(_DEFAULTS),
    }
    for channel, date in channels.items():
        files[f"{FOLDER}/{channel}/pieeprom-{date}.bin"] = File(eeprom.released(date))
        files[f"{FOLDER}/{channel}/recovery.bin"] = text("stand-in\n")
    return StandIn("rpi-eeprom", version, "all", {"Depends": "python3"}, files, {"postinst": _POSTINST})


PACKAGES = (
    package("28.2-1", default="2025-05-08"),
    package(BASE_VERSION, default="2026-05-26", latest="2026-08-12"),
)
NEXT_PACKAGES = (package("28.30-1", default="2026-09-25"),)
