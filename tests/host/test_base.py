"""What role `base` promises of any converged host."""

from __future__ import annotations

import re

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def test_its_folders_are_there(host):
    for path in ("/etc/hedgerow", "/var/lib/hedgerow"):
        assert host.root(f"stat -c '%F %a %U' {path}") == "directory 755 root\n"


def test_its_packages_are_installed(host):
    for name in ("ca-certificates", "python3-apt", "systemd-timesyncd"):
        assert host.shell.package(name).is_installed


def test_f18_the_clock_is_kept_and_awaited(host):
    """Certificates are "not yet valid" on a board whose clock has not been set since its image was built."""
    host.not_in_a_container("it has its machine's clock, and systemd starts no time client in it")
    assert host.service("systemd-timesyncd.service").is_running
    assert host.service("systemd-time-wait-sync.service").is_enabled


def test_f18_a_boot_waits_for_the_time_within_bounds(host):
    """And without it is no failed unit: a site without network serves all the same."""
    host.not_in_a_container("systemd starts no time client in it")
    name = "systemd-time-wait-sync.service"
    assert host.root(f"systemctl show -p ActiveState --value {name}").strip() != "failed"
    (waits,) = re.findall(r"argv\[\]=(\S+ \S+) ", host.root(f"systemctl show -p ExecStart {name}"))
    assert re.fullmatch(r"/usr/bin/timeout \d+", waits)


def test_f18_the_clock_is_right(host):
    host.only_on_a_board("no time server can be reached from an emulated one")
    assert host.run("timedatectl show -p NTPSynchronized --value").stdout.strip() == "yes"


def test_f34_a_dead_root_disk_reboots_the_board(host):
    """PID 1 feeds the hardware watchdog although nothing can be read any more; this unit does not."""
    unit = host.root("systemctl cat hedgerow-storage-probe.service").splitlines()
    assert "FailureAction=reboot-immediate" in unit
    assert any(line.startswith("WatchdogSec=") for line in unit)
    assert host.service("hedgerow-storage-probe.service").is_enabled
    host.not_in_a_container("its root is on no disk of its own")
    assert host.service("hedgerow-storage-probe.service").is_running
