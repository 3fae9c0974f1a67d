"""After another device type was asked for."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def test_the_new_type_is_told(pi):
    assert pi.root("cat /var/lib/mender/device_type") == "device_type=raspberrypi5_64_lab\n"
