"""After the next version lock."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.fleet


def test_packages_and_kernel_are_the_next_lock_s(pi):
    assert json.loads(pi.root("cat /etc/hedgerow/pins.json"))["release"] == "2026.10-emulated"
    assert "1:6.18.50-1+rpt1" in pi.root("dpkg-query -W linux-image-rpi-2712 linux-headers-rpi-2712")
    assert "28.28-1" in pi.root("dpkg-query -W rpi-eeprom")


def test_it_was_rebooted_into_it(pi):
    """An emulated board's kernel is the one that its firmware found on the boot partition."""
    assert pi.root("cat /hardware/proc/sys/kernel/osrelease").strip() == "6.18.50+rpt-rpi-2712"


def test_the_driver_is_built_for_it_and_held(pi):
    assert "6.18.50+rpt-rpi-2712" in pi.root("dkms status")
    assert {"h10-hailort", "h10-hailort-pcie-driver", "linux-image-6.18.50+rpt-rpi-2712"} <= set(
        pi.root("apt-mark showhold").split()
    )
