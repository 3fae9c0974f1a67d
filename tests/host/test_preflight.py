"""What role `preflight` relies on: the board tells who it is."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def test_the_board_is_the_one_of_the_inventory(host):
    report = host.root(
        "tr -d '\\0' <$(head -n 1 /etc/hedgerow/hardware-root 2>/dev/null)/proc/device-tree/serial-number"
    )
    assert report.strip() == host.entry.serial


def test_the_suite_is_the_lock_s(host):
    suite = host.fleet.vars["fleet_release"]["os"]["suite"]
    assert f"VERSION_CODENAME={suite}" in host.root("cat /etc/os-release").splitlines()
