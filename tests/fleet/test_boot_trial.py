"""A change of the boot configuration is tried once: kept if the host is well, gone by itself if not, whoever died."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from hedgerow.errors import NetworkError

# Three minutes of reboots; tests/unit/device/test_boot_trial.py interrupts every write of a trial.
pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.nightly]

PROGRAM = "python3 -I -B /usr/local/lib/hedgerow/boot_trial.py"
KEEP = {"boot_config_trial_within_s": 60, "boot_config_trial_stable_s": 2}


class Host:
    """One Pi, what it boots from and how it decided."""

    def __init__(self, controller: Any, name: str) -> None:
        self.controller = controller
        self.name = name

    def extra(self, **variables: Any) -> list[str]:
        return ["--limit", self.name, "-e", json.dumps(KEEP | variables)]

    def read(self, path: str) -> str:
        done = self.controller.on(self.name, f"cat {path}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def report(self) -> dict[str, Any] | None:
        """None while the host is away."""
        try:
            done = self.controller.on(self.name, f"{PROGRAM} report")
        except NetworkError:
            return None
        return json.loads(done.stdout) if done.returncode == 0 else None

    def phase(self) -> str | None:
        report = self.report()
        return report["trial"]["phase"] if report and report["trial"] else None

    def outcome(self) -> str | None:
        """Of the trial that is over; None while one is under way or the host is."""
        report = self.report()
        return None if report is None or report["trial"] else (report["result"] or {}).get("outcome")

    def boot_files(self) -> tuple[str, str]:
        return self.read("/boot/firmware/config.txt"), self.read("/boot/firmware/cmdline.txt")

    def running(self) -> list[str]:
        return self.read("/hardware/proc/cmdline").split()


@pytest.fixture(scope="module")
def pi(controller):
    host = Host(controller, controller.pis[-1])

    def as_the_inventory_says() -> None:
        done = controller.play("site.yml", "--limit", host.name, "--tags", "boot_config")
        assert done.returncode == 0, done.stdout + done.stderr

    as_the_inventory_says()
    yield host
    as_the_inventory_says()
    done = controller.play("reboot.yml", "--limit", host.name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_f35_a_good_change_is_booted_once_with_its_flag_and_kept(pi):
    done = pi.controller.play("boot_trial.yml", *pi.extra(boot_config_lines=["arm_freq=2000"]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "arm_freq=2000" in pi.read("/boot/firmware/config.txt")
    assert any(token.startswith("hedgerow.trial=") for token in pi.running()), "it was tried before it was kept"
    assert pi.controller.on(pi.name, "ls /boot/firmware/tryboot*").returncode != 0

    again = pi.controller.play("boot_trial.yml", *pi.extra(boot_config_lines=["arm_freq=2000"]))
    assert "changed=0" in again.stdout, again.stdout


def test_f36_a_change_that_leaves_the_host_unwell_is_gone_after_its_boot(pi):
    before = pi.boot_files()
    bad = pi.extra(
        boot_config_lines=["arm_freq=1500"], boot_config_trial_commands=["false"], boot_config_trial_within_s=6
    )
    done = pi.controller.play("boot_trial.yml", *bad)
    assert done.returncode != 0
    assert "the trial was not kept: `false` ended with 1" in done.stdout
    assert pi.boot_files() == before
    assert not any(token.startswith("hedgerow.trial=") for token in pi.running())


@pytest.fixture
def trying(pi, tmp_path, wait):
    """A trial whose boot is not well yet, with nobody watching: the controller is killed as soon as it began."""
    before = pi.boot_files()
    play = pi.controller.start(
        "boot_trial.yml",
        *pi.extra(boot_config_lines=["arm_freq=1800"], boot_config_trial_commands=["test -e /etc/hedgerow/well"]),
        log=tmp_path / "log",
    )
    try:
        wait(lambda: pi.phase() == "trying")
    finally:
        os.killpg(play.pid, signal.SIGKILL)
        play.wait()
    yield before
    pi.controller.on(pi.name, "rm -f /etc/hedgerow/well")


def test_f36_a_power_cut_during_the_trial_boots_the_old_configuration(pi, trying, wait):
    assert pi.controller.hedgerow("emulate", "power", pi.name, "cycle").returncode == 0
    wait(lambda: pi.outcome() == "fell_back")
    assert "a panic, the watchdog or a power cut" in pi.report()["result"]["reason"]
    assert pi.boot_files() == trying


def test_f36_the_host_decides_without_a_controller(pi, trying, wait):
    assert pi.boot_files() == trying, "nothing is kept before the host is well"
    pi.controller.on(pi.name, "touch /etc/hedgerow/well")
    wait(lambda: pi.outcome() == "committed")
    assert "arm_freq=1800" in pi.read("/boot/firmware/config.txt")


def test_f44_a_bootloader_update_that_a_warm_reboot_passes_by_asks_for_a_cold_one(pi):
    order = "0xf461" if "BOOT_ORDER=0xf416" in pi.controller.on(pi.name, "rpi-eeprom-config").stdout else "0xf416"
    keys = pi.extra(boot_config_lines=["arm_freq=1800"], boot_config_eeprom_keys={"BOOT_ORDER": order})
    assert pi.controller.hedgerow("emulate", "set", pi.name, "eeprom_staged=cold").returncode == 0
    try:
        for playbook in ("site.yml", "reboot.yml"):
            tags = ["--tags", "boot_config"] if playbook == "site.yml" else []
            done = pi.controller.play(playbook, *keys, *tags)
            assert done.returncode == 0, done.stdout + done.stderr
        told = pi.controller.play("site.yml", *keys, "--tags", "boot_config")
        assert "Cut the power and give it again" in told.stdout
        assert pi.controller.hedgerow("emulate", "power", pi.name, "cycle").returncode == 0
        assert f"BOOT_ORDER={order}" in pi.controller.on(pi.name, "rpi-eeprom-config").stdout
        quiet = pi.controller.play("site.yml", *keys, "--tags", "boot_config")
        assert "Cut the power" not in quiet.stdout
    finally:
        pi.controller.hedgerow("emulate", "set", pi.name, "eeprom_staged=any")
