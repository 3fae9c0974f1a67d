"""What role `mender_client` promises of any converged Pi."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def test_the_client_is_installed_and_its_daemon_off(pi):
    assert pi.shell.package("mender-client").is_installed
    assert not pi.service("mender-client.service").is_running
    assert not pi.service("mender-client.service").is_enabled


def test_its_configuration_is_root_s_alone(pi):
    assert pi.root("stat -c '%a %U' /etc/mender/mender.conf") == "600 root\n"


def test_the_device_type_is_told(pi):
    assert pi.root("cat /var/lib/mender/device_type").startswith("device_type=raspberrypi5_64")


def test_identity_is_the_board_s_serial_not_its_network_card(pi):
    """A USB network card or a replaced board must not change who the device is (facts, identity)."""
    lines = dict(
        line.split("=", 1) for line in pi.root("/usr/share/mender/identity/mender-device-identity").splitlines()
    )
    assert lines["serial"] == pi.entry.serial
