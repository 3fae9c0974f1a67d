"""What role `boot_config` promises of any converged Pi; nothing here is about how it was asked to be."""

from __future__ import annotations

import json
import re

import pytest

from hedgerow.converge import config_txt
from hedgerow.converge.boot import BEGIN, END, ROOM_MB, missing_tokens

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

TOKENS = ["cgroup_enable=memory", "psi=1", "lsm=apparmor", "panic=10"]


def cmdline(pi) -> list[str]:
    (line,) = pi.root("cat /boot/firmware/cmdline.txt").splitlines()
    return line.split()


def test_config_txt_has_at_most_one_block_and_none_of_its_lines_is_overruled(pi):
    text = pi.root("cat /boot/firmware/config.txt")
    assert text.count("# BEGIN hedgerow") == text.count("# END hedgerow") <= 1
    block = text.partition(BEGIN)[2].partition(END)[0]
    counts = config_txt.effective(text)
    assert {key: found.value for key, found in config_txt.effective(block).items()}.items() <= {
        key: found.value for key, found in counts.items()
    }.items()
    assert config_txt.closes(block.splitlines())


def test_cmdline_txt_is_one_line_with_its_tokens(pi):
    tokens = cmdline(pi)
    assert set(TOKENS) <= set(tokens)
    assert [token for token in tokens if token.startswith("security=")] == []
    assert len([token for token in tokens if token.startswith("lsm=")]) == 1


def test_the_kernel_runs_with_them(pi):
    """After the reboot that was asked for; before it the host says so."""
    if pi.run("test -e /run/reboot-required").rc == 0:
        pytest.skip("a reboot waits: playbooks/reboot.yml")
    root = pi.run("cat /etc/hedgerow/hardware-root").stdout.strip()
    assert missing_tokens(pi.root(f"cat {root}/proc/cmdline").split(), TOKENS) == []


def test_f16_memory_cgroups_are_there(pi):
    pi.not_in_a_container("its controllers are its machine's")
    if pi.run("test -e /run/reboot-required").rc == 0:
        pytest.skip("a reboot waits: playbooks/reboot.yml")
    assert "memory" in pi.run("cat /sys/fs/cgroup/cgroup.controllers").stdout.split()


def test_f17_a_country_is_set_where_one_was_asked_for(pi):
    country = pi.var("boot_config_regdom")
    if country is None:
        pytest.skip("boot_config_regdom is not set for this host")
    assert f"cfg80211.ieee80211_regdom={country}" in cmdline(pi)


def test_f26_nothing_updates_the_bootloader_unasked(pi):
    assert pi.run("systemctl is-enabled rpi-eeprom-update.service").stdout.strip() == "masked"
    channel = pi.var("fleet_release")["eeprom"]["channel"]
    if channel is not None:
        assert f'FIRMWARE_RELEASE_STATUS="{channel}"' in pi.root("cat /etc/default/rpi-eeprom-update")


def test_f28_an_image_older_than_the_board_would_be_refused(pi):
    if pi.var("fleet_release")["eeprom"]["channel"] is None:
        pytest.skip("the lock pins no bootloader")
    assert "STRICT_MIN_VER_CHECK=1" in pi.root("cat /etc/default/rpi-eeprom-update")


def test_f29_the_bootloader_is_not_below_the_minimum(pi):
    minimum = pi.var("fleet_release")["eeprom"]["minimum"]
    if minimum is None:
        pytest.skip("the lock has no minimum")
    assert pi.root("rpi-bootloader-version").split()[0].replace("/", "-") >= minimum


def test_f44_no_bootloader_update_was_passed_by(pi):
    """One that was staged before this boot has to run now; a warm reboot may have discarded it."""
    if pi.run("test -e /boot/firmware/recovery.bin").rc != 0:
        return
    booted = float(pi.root("stat -c %Y /proc/1"))
    assert float(pi.root("stat -c %Y /boot/firmware/recovery.bin")) > booted, "cut the power and give it again"


def test_f48_no_update_is_staged_at_each_boot(pi):
    assert pi.root("readlink /etc/systemd/system/rpi-eeprom-update.service").strip() == "/dev/null"


def test_f33_systemd_s_watchdog_settings_are_ours(pi):
    shown = pi.root("systemd-analyze cat-config systemd/system.conf")
    last = re.findall(r"^# (\S+\.conf)$", shown, re.MULTILINE)[-1]
    assert last == "/etc/systemd/system.conf.d/90-hedgerow-watchdog.conf"
    assert re.findall(r"^RuntimeWatchdogSec=(\d+)s$", shown, re.MULTILINE)


def test_f33_the_hardware_watchdog_is_fed(pi):
    """The configuration proves nothing: sysfs says who has the device open."""
    pi.not_in_a_container("it has no watchdog device, and must not open its machine's")
    pi.only_on_a_board("the virtual machine's watchdog is another chip's")
    assert pi.root("cat /sys/class/watchdog/watchdog0/state").strip() == "active"
    assert "Watchdog running with a hardware timeout of" in pi.root("journalctl -b --no-pager -o cat _PID=1")
    assert pi.run("systemctl is-enabled watchdog.service").stdout.strip() != "enabled"


def test_f36_a_panic_reboots(pi):
    assert [token for token in cmdline(pi) if re.fullmatch(r"panic=[1-9]\d*", token)]


def test_f36_a_trial_would_be_ended_by_the_host_itself(pi):
    assert pi.run("systemctl is-enabled hedgerow-boot-trial.service").stdout.strip() == "enabled"
    assert pi.root("python3 -I -B /usr/local/lib/hedgerow/boot_trial.py report")
    shown = pi.root("systemctl show -p DefaultDependencies -p IgnoreOnIsolate hedgerow-boot-trial.service")
    assert set(shown.split()) == {"DefaultDependencies=no", "IgnoreOnIsolate=yes"}


def test_f37_firmware_tells_what_booted(pi):
    told = json.loads(pi.root("python3 -I -B /usr/local/lib/hedgerow/boot_trial.py report"))
    assert told["tryboot"] is not None
    if told["tryboot"]:
        kept = told["result"] or {}
        assert kept.get("boot_id") == told["boot_id"], "this boot is a trial that nobody has confirmed"


def test_f40_the_boot_partition_has_room(pi):
    size, free = map(int, pi.root("df --output=size,avail -BM /boot/firmware | tail -1").replace("M", "").split())
    assert free >= 16
    assert size >= ROOM_MB
