"""Tables of combinations that somebody has run, each row with where that is known from."""

from __future__ import annotations

from typing import NamedTuple

from hedgerow.inventory.model import Hat


class Chip(NamedTuple):
    """One family of NPUs: its row of the lock, its HATs, the packages of its library and its driver."""

    row: str
    hats: tuple[Hat, ...]
    library: tuple[str, ...]
    driver: tuple[str, ...]
    major: int


# Names: facts §3.2; Hailo's own packages of 5.x call the library `hailort`, too. Chips: §3.1, §3.7.
CHIPS = (
    Chip(
        "hailo_10h", ("hat-plus-2",), ("h10-hailort", "hailort"), ("h10-hailort-pcie-driver", "hailort-pcie-driver"), 5
    ),
    Chip("hailo_8", ("hat-plus-13", "hat-plus-26"), ("hailort",), ("hailort-pcie-driver",), 4),
)
ARCHITECTURES: dict[Hat, str] = {"hat-plus-2": "HAILO10H", "hat-plus-13": "HAILO8L", "hat-plus-26": "HAILO8"}

# What Raspberry Pi's archive ships for trixie (facts §3.2), and versions that others run beside it (§3.4, §3.2).
ARCHIVE = {"hailo_10h": "5.1.1", "hailo_8": "4.23.0"}
SEEN = {"hailo_10h": ("5.1.1", "5.2.0", "5.3.0", "5.4.0"), "hailo_8": ("4.22.0", "4.23.0")}

# Kernels of Raspberry Pi OS images and of field units (facts §1.1).
KERNELS = ("6.12.47", "6.12.75", "6.12.96", "6.18.34", "6.18.50")
KERNEL_PACKAGES = ("linux-image-rpi-2712", "linux-image-rpi-v8")
PAGE_SIZES = {"rpi-2712": 16384, "rpi-v8": 4096}  # facts §2.4

# Suite → its Python (Debian's).
PYTHON = {"trixie": "3.13", "bookworm": "3.11"}

# rpi-eeprom package → newest image a channel of it holds (facts §2.6); what is not here is not judged.
EEPROM_HEADS = {("28.28-1", "default"): "2026-05-26"}
EEPROM_HAT_MINIMUM = "2023-12-06"  # facts §2.3
# Facts F27: older ones lose BOOT_ORDER with a newer kernel; F29: those of 2024-09 hang with one.
EEPROM_KERNEL_MINIMUM = "2025-02-11"

# The largest boards have the newest stepping and the youngest bootloader minimum (e04171: facts §4.1, §5.9).
LARGE_BOARD_MB = 16384

MENDER_MAJOR = {"debian": ("3.4",), "upstream": ("5.", "6.")}  # facts §5.1; 4.x ended
MENDER_OLD_PATH = "/repos/debian"  # 403 since November 2025 (facts §5.1)
