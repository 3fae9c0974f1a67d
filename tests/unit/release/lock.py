"""The lock that the tests begin with: the reference build of the fact sheet (§1.4)."""

from __future__ import annotations

from typing import Any

KERNEL = "1:6.18.50-1+rpt1"
GOOD: dict[str, Any] = {
    "name": "2026.10",
    "os": {"distribution": "debian", "suite": "trixie"},
    "kernel": {
        "package": "linux-image-rpi-2712",
        "version": "6.18.50",
        "deb": KERNEL,
        "flavour": "rpi-2712",
        "page_size": 16384,
    },
    "headers": {"package": "linux-headers-rpi-2712", "deb": KERNEL},
    "raspi_firmware": {"version": "1:1.20260915-1"},
    "eeprom": {"version": "28.28-1", "channel": "default", "minimum": "2025-05-08"},
    "dkms": {"version": "3.2.2-1~deb13u1"},
    "hailo_10h": {
        "driver": "5.1.1",
        "library": "5.1.1",
        "firmware": "5.1.1",
        "packages": {
            "hailo-h10-all": "5.1.1",
            "h10-hailort": "5.1.1",
            "h10-hailort-pcie-driver": "5.1.1",
            "python3-h10-hailort": "5.1.1-1",
        },
    },
    "hailo_8": {
        "driver": "4.23.0",
        "library": "4.23.0",
        "firmware": "4.23.0",
        "packages": {"hailo-all": "5.1.1", "hailort": "4.23.0", "hailort-pcie-driver": "4.23.0"},
    },
    "mender_client": {"variant": "debian", "integration": "application", "version": "3.4.0+ds1-5"},
    "runtime": {"version": "0.1.0", "python": "3.13"},
    "apparmor": {"abi": "4.0"},
}
V8 = {
    "kernel": {"package": "linux-image-rpi-v8", "flavour": "rpi-v8", "page_size": 4096},
    "headers": {"package": "linux-headers-rpi-v8"},
}


def hailo(version: str, *, row: str = "hailo_10h", **change: Any) -> dict[str, Any]:
    """A whole set of one version."""
    names = ("h10-hailort", "h10-hailort-pcie-driver") if row == "hailo_10h" else ("hailort", "hailort-pcie-driver")
    whole = dict.fromkeys(("driver", "library", "firmware"), version)
    return {row: {**whole, "packages": dict.fromkeys(names, version), **change}}
