"""After the role ran with another module option on hosts with leftovers (molecule/hat/changed.yml)."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

MODULES = {"hat-plus-2": "hailo1x_pci", "hat-plus-13": "hailo_pci", "hat-plus-26": "hailo_pci"}


def test_f11_the_nearest_layer_s_option_is_written(pi):
    if pi.entry.hat == "none":
        assert not pi.file("/etc/modprobe.d/hedgerow-hat.conf").exists
        return
    line = f"options {MODULES[pi.entry.hat]} force_desc_page_size=2048"
    assert line in pi.root("cat /etc/modprobe.d/hedgerow-hat.conf").splitlines()


def test_f41_the_line_that_kept_the_driver_out_is_gone_and_its_neighbour_is_not(pi):
    assert pi.root("cat /etc/modprobe.d/old.conf") == "options snd index=1\n"


def test_f42_the_node_is_the_group_s_again(pi):
    if pi.entry.hat == "none":
        pytest.skip("this board has no HAT")
    assert pi.root("stat -c '%a %G' /dev/hailo0") == "660 hailo\n"
