"""After other input, a refusal, and the reboot that it asked for."""

from __future__ import annotations

import pytest

from hedgerow.converge import config_txt
from hedgerow.converge.config_txt import Board

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def test_nothing_is_left_of_the_line_that_was_there_by_hand(pi):
    assert "cmdline=" not in pi.root("cat /boot/firmware/config.txt")


def test_lists_of_fleet_and_group_are_joined_and_the_filter_stays_with_its_list(pi):
    text = pi.root("cat /boot/firmware/config.txt")
    counts = config_txt.effective(text, Board(serial=pi.entry.serial))
    assert counts["usb_max_current_enable"].value == "1"
    assert ("arm_freq" in counts) is (pi.entry.serial == "e0d1c2b3a4970011")


def test_no_foreign_line_was_lost(pi):
    shipped = ["camera_auto_detect=1", "auto_initramfs=1", "arm_boost=1", "[cm5]", "dtoverlay=dwc2,dr_mode=host"]
    lines = pi.root("cat /boot/firmware/config.txt").splitlines()
    assert [line for line in shipped if line not in lines] == []


def test_the_kernel_was_started_with_the_new_tokens(pi):
    root = pi.run("cat /etc/hedgerow/hardware-root").stdout.strip()
    running = pi.root(f"cat {root}/proc/cmdline").split()
    assert {"quiet", "cfg80211.ieee80211_regdom=DE"} <= set(running)
    assert "console=tty1" not in running
    assert "console=serial0,115200" in running


def test_f26_the_bootloader_has_the_keys_and_the_version_is_the_pinned_one(pi):
    config = pi.root("rpi-eeprom-config").splitlines()
    assert {"BOOT_ORDER=0xf416", "POWER_OFF_ON_HALT=1", "BOOT_UART=1"} <= set(config)
    assert pi.root("rpi-bootloader-version").split()[0] == "2026/05/26"


def test_the_watchdog_is_as_asked_for(pi):
    assert pi.run("systemctl show -p RuntimeWatchdogUSec --value").stdout.strip() == "30s"
