"""How boots end and what the next one is: reboots, panics, hangs, cuts, trials. A container has none of them."""

from __future__ import annotations

import json
import time

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

RESULT = "/etc/hedgerow/boot-trial/result.json"
TOKEN = "hedgerow.trial=1"
TRIAL = {
    "boot_config_cmdline_present_host": [TOKEN],
    "boot_config_trial_within_s": 240,
    "boot_config_trial_stable_s": 5,
}


def is_well(vm) -> bool:
    return vm.root("systemctl is-system-running || true").strip() == "running"


def tokens(vm) -> list[str]:
    return vm.root("cat /proc/cmdline").split()


def test_a_reboot_is_one_and_everything_comes_back(vm):
    boots = vm.board.state().boots
    vm.reset_by("systemctl reboot")
    assert vm.board.state().boots == boots + 1
    assert is_well(vm), vm.root("systemctl --failed --no-legend")
    assert vm.root("systemctl is-active hedgerow-server ssh").split() == ["active", "active"]


def test_a_converge_after_the_reboot_changes_nothing(vm):
    assert vm.changed(vm.play("playbooks/site.yml")) == 0


def test_switched_off_stays_off_until_power_comes(vm):
    vm.root("systemd-run --quiet --on-active=1 systemctl poweroff")
    vm.until(lambda: vm.board.state().power == "off", within_s=180)
    assert vm.board.state().why == "the guest switched itself off"
    vm.give()
    assert vm.root("cat /run/emulated-pi/boot").strip() == "cold"


def test_f36_a_kernel_panic_comes_back_by_itself(vm):
    """Token panic= of role boot_config; without it the machine would stand still for ever."""
    assert any(word.startswith("panic=") for word in tokens(vm))
    vm.reset_by("echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger")
    assert is_well(vm), vm.root("systemctl --failed --no-legend")


def test_f33_a_board_that_hangs_is_reset_by_its_watchdog(vm):
    """systemd has the timer armed; a kernel that panics and may not reboot feeds it no more."""
    armed = vm.root("systemctl show --property=RuntimeWatchdogUSec --value").strip()
    assert armed not in {"", "0", "infinity"}, "role boot_config arms it"
    assert "Using hardware watchdog" in vm.root("journalctl --boot --no-pager --grep 'hardware watchdog'")
    vm.reset_by("sysctl -w kernel.panic=0 kernel.sysrq=1; echo c >/proc/sysrq-trigger")
    assert is_well(vm), vm.root("systemctl --failed --no-legend")


def test_a_trial_that_is_well_is_kept(vm):
    done = vm.play("playbooks/boot_trial.yml", "-e", json.dumps(TRIAL))
    assert done.returncode == 0, done.stdout[-3000:]
    assert json.loads(vm.root(f"cat {RESULT}"))["outcome"] == "committed"
    assert TOKEN in tokens(vm)
    assert TOKEN in vm.root("cat /boot/firmware/cmdline.txt").split()
    vm.reset_by("systemctl reboot")
    assert TOKEN in tokens(vm), "the boot after the trial's own reads it from config.txt's side"


def test_a_trial_that_is_not_well_falls_back_by_itself(vm):
    wanted = TRIAL | {
        "boot_config_cmdline_present_host": [TOKEN, "hedgerow.trial=2"],
        "boot_config_trial_commands": ["false"],
        "boot_config_trial_within_s": 90,
    }
    done = vm.play("playbooks/boot_trial.yml", "-e", json.dumps(wanted))
    assert done.returncode != 0, "the play says that the host came back"
    assert "the trial was not kept" in done.stdout, done.stdout[-3000:]
    assert json.loads(vm.root(f"cat {RESULT}"))["outcome"] == "fell_back"
    assert "hedgerow.trial=2" not in tokens(vm)
    assert vm.board.state().config == "config.txt"


def test_f36_a_trial_that_panics_falls_back(vm):
    """The kernel dies before anything of ours could say so: nothing but the one-shot flag brings the board back."""
    arm_by_hand(vm, token="hedgerow.trial=3")
    vm.until(lambda: vm.board.state().config == "tryboot.txt", within_s=180)
    panic_when_up(vm)
    vm.until(lambda: vm.board.state().config == "config.txt" and vm.answers())
    assert "hedgerow.trial=3" not in tokens(vm)
    vm.root("rm -f /boot/firmware/tryboot.txt /boot/firmware/by-hand.txt")


def test_a_power_cut_in_a_trial_forgets_it(vm):
    arm_by_hand(vm, token="hedgerow.trial=4")
    vm.until(lambda: vm.board.state().config == "tryboot.txt" and vm.board.state().power == "on", within_s=180)
    vm.cut()
    vm.give()
    assert vm.board.state().config == "config.txt"
    assert "hedgerow.trial=4" not in tokens(vm)
    vm.root("rm -f /boot/firmware/tryboot.txt /boot/firmware/by-hand.txt")


def arm_by_hand(vm, *, token: str) -> None:
    """A trial as an operator would make one, without our unit watching over it."""
    vm.root(
        f'cd /boot/firmware && echo "$(cat cmdline.txt) {token}" >by-hand.txt '
        "&& { cat config.txt; printf '[all]\\ncmdline=by-hand.txt\\n'; } >tryboot.txt && sync"
    )
    vm.root("systemd-run --quiet --on-active=1 systemctl reboot --reboot-argument='0 tryboot'")


def panic_when_up(vm) -> None:
    """As soon as the guest's agent hears it."""
    deadline = time.monotonic() + 400
    while True:
        try:
            vm.root(
                "systemd-run --quiet --on-active=1 sh -c 'echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger'"
            )
        except Exception:  # noqa: BLE001 - it boots: the agent is not there yet
            assert time.monotonic() < deadline, "never came up in the trial"
            time.sleep(1)
        else:
            return
