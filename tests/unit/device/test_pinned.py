from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hedgerow.converge import pins
from hedgerow.device import metrics
from hedgerow.device.pinned import Pinned, parse_status

LOCK: dict[str, Any] = {
    "release": "2026.10",
    "packages": {"h10-hailort": "5.1.1", "dkms": "3.2.2-1~deb13u1", "mender-client": "3.4.0+ds1-5"},
    "blocked": ["hailo-all"],
    "kernel": "6.18.50+rpt-rpi-2712",
}


class Device:
    def __init__(self, folder: Path) -> None:
        self.lock, self.status = folder / "pins.json", folder / "status"
        self.lock.write_text(json.dumps(LOCK))
        self.pinned = Pinned(self.lock, self.status)
        self._times = 0

    def installs(self, state: str = "install ok installed", **packages: str) -> None:
        paragraphs = [
            f"Package: {name.replace('_', '-')}\nStatus: {state}\nVersion: {version}\nDescription: x\n more\n"
            for name, version in packages.items()
        ]
        self.status.write_text("\n".join(paragraphs))
        self._times += 1
        os.utime(self.status, ns=(self._times, self._times))


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_what_is_as_locked_has_not_drifted(device: Device) -> None:
    device.installs(h10_hailort="5.1.1", mender_client="3.4.0+ds1-5+b15", bash="5")
    assert device.pinned.drifted() == 0


def test_drift_and_the_wrong_stack_are_counted_and_a_change_is_seen(device: Device) -> None:
    device.installs(h10_hailort="5.3.0", dkms="3.0.10-8", hailo_all="5.1.1")
    assert device.pinned.drifted() == 3
    device.installs(h10_hailort="5.1.1")
    assert device.pinned.drifted() == 0


def test_what_is_only_configured_away_is_not_installed(device: Device) -> None:
    device.installs("deinstall ok config-files", h10_hailort="5.3.0")
    assert device.pinned.drifted() == 0


def test_f46_a_kernel_that_waits_is_told(device: Device) -> None:
    packages = {"linux-image-6.18.50+rpt-rpi-2712": "1", "linux-image-6.18.34+rpt-rpi-2712": "1"}
    device.installs(**packages)
    assert device.pinned.pending("6.18.34+rpt-rpi-2712") is True
    assert device.pinned.pending("6.18.50+rpt-rpi-2712") is False
    assert device.pinned.pending(None) is None


@pytest.mark.parametrize("text", [None, "{"])
def test_without_a_lock_nothing_is_known(device: Device, text: str | None) -> None:
    device.installs(bash="5")
    if text is None:
        device.lock.unlink()
    else:
        device.lock.write_text(text)
    assert device.pinned.drifted() is None
    assert device.pinned.pending("6.18.50+rpt-rpi-2712") is None


def test_the_role_s_file_is_what_is_read(device: Device) -> None:
    """The two ends of /etc/hedgerow/pins.json."""
    hailo = {"driver": "5.1.1", "library": "5.1.1", "firmware": "5.1.1", "packages": {"h10-hailort": "5.1.1"}}
    release = {
        "name": "r",
        "kernel": {"package": None, "version": None, "deb": None, "flavour": None},
        "headers": {"package": None, "deb": None},
        "raspi_firmware": {"version": None},
        "eeprom": {"version": None},
        "dkms": {"version": None},
        "hailo_10h": hailo,
        "hailo_8": hailo,
        "mender_client": {"variant": "debian", "integration": "application", "version": "3.4.0+ds1-5"},
    }
    device.lock.write_text(pins.on_device(release, "hat-plus-2"))
    device.installs(h10_hailort="5.2.0", hailort="4.23.0")
    assert device.pinned.drifted() == 2


def test_this_machine_s_own_status_is_read() -> None:
    file = Path("/var/lib/dpkg/status")
    assert "bash" in parse_status(file.read_text(encoding="utf-8"))


def test_both_are_metrics_and_unknown_ones_have_no_sample(device: Device) -> None:
    device.installs(h10_hailort="5.3.0", **{"linux-image-6.18.50+rpt-rpi-2712": "1"})
    running = {"kernel": {"release": "6.18.34+rpt-rpi-2712"}}

    def samples(full: dict[str, Any] | None) -> dict[str, float]:
        families = metrics._pins(device.pinned, full)
        return {sample.name: sample.value for family in families for sample in family.samples}

    assert samples(running) == {"hedgerow_device_pins_drifted": 1, "hedgerow_device_pending_kernel": 1}
    assert samples(None) == {"hedgerow_device_pins_drifted": 1}
