"""After the way back to the lock before."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.fleet


def test_packages_and_kernel_are_the_lock_s_before(pi):
    assert json.loads(pi.root("cat /etc/hedgerow/pins.json"))["release"] == "2026.06-emulated"
    versions = pi.root("dpkg-query -W linux-image-rpi-2712 linux-headers-rpi-2712 raspi-firmware rpi-eeprom")
    assert versions.split()[1::2] == ["1:6.18.34-1+rpt1", "1:6.18.34-1+rpt1", "1:1.20260521-2", "28.2-1"]


def test_the_newer_kernel_is_gone_so_that_it_is_not_booted(pi):
    assert pi.root("cat /hardware/proc/sys/kernel/osrelease").strip() == "6.18.34+rpt-rpi-2712"
    assert "vmlinuz-6.18.50" not in pi.root("ls /boot")


def test_the_driver_is_there_for_it(pi):
    assert "6.18.34+rpt-rpi-2712" in pi.root("dkms status")
