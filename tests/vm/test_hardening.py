"""Role `hardening` on a kernel of its own: settings and rules after a real reboot, and the plug pulled while it works.

What every host shows, this one included, is in `tests/host/test_hardening.py`.
"""

from __future__ import annotations

import json
import os
import signal

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

SITE = ("playbooks/site.yml", "--tags", "hardening")
SSHD = "/etc/ssh/sshd_config.d/00-hedgerow.conf"
GUARD = "/var/lib/hedgerow/guard"


@pytest.fixture(scope="module")
def rebooted(vm):
    vm.reset_by("systemctl reboot")
    return vm


def test_every_kernel_setting_holds_after_a_reboot(rebooted):
    text = rebooted.root("cat /etc/sysctl.d/99-zz-hedgerow.conf")
    wanted = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line and not line.startswith("#"))
    assert "kernel.kptr_restrict" in wanted, "nothing is left out on a kernel of its own"
    shown = rebooted.root(f"for key in {' '.join(wanted)}; do sysctl --ignore $key; done")
    live = dict(line.split(" = ", 1) for line in shown.splitlines())
    assert len(live) > len(wanted) // 2
    assert {key: value for key, value in live.items() if value != wanted[key]} == {}


def test_rules_stand_before_sshd(rebooted):
    assert "policy drop" in rebooted.root("nft list chain inet hedgerow input")

    def entered(unit: str) -> int:
        return int(rebooted.root(f"systemctl show -p ActiveEnterTimestampMonotonic --value {unit}"))

    assert 0 < entered("nftables.service") < entered("ssh.service")


def test_names_are_resolved_again_after_a_reboot(rebooted):
    rebooted.until(lambda: "elements" in rebooted.root("nft list set inet hedgerow resolvers_4"), within_s=120)


def test_a_drop_is_in_the_journal(rebooted):
    rebooted.root("curl --silent --max-time 10 http://198.51.100.7/ || test $? = 7")
    assert "DST=198.51.100.7" in rebooted.root("journalctl -k --no-pager -g 'hedgerow drops out' | tail -n 5")


def test_converging_again_changes_nothing(rebooted):
    assert rebooted.changed(rebooted.play(*SITE)) == 0


def test_the_plug_pulled_before_the_confirmation_leaves_the_old_settings_and_a_way_in(vm):
    before = vm.root(f"cat {SSHD}")
    asked = json.dumps({"hardening_ssh_auth_tries": 6})
    running = vm.start(*SITE, "-e", asked)
    try:
        # By the guest agent: what is being changed is SSH.
        vm.until(lambda: vm.run(f"test -e {GUARD}/hardening/armed.json").returncode == 0)
        vm.cut()
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    vm.give()
    assert vm.root(f"ls {GUARD}") == ""
    assert vm.root("find /etc/systemd/system -name '*guard*'") == ""
    # The plug may have been pulled a moment after the confirmation: then the new settings hold, whole.
    assert vm.root(f"cat {SSHD}") in {before, before.replace("MaxAuthTries 4", "MaxAuthTries 6")}
    assert vm.changed(vm.play(*SITE)) <= 1
    assert vm.root(f"cat {SSHD}") == before
