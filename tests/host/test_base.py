"""What role `base` promises of any converged host."""

from __future__ import annotations

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
    assert host.run("timedatectl show -p NTPSynchronized --value").stdout.strip() == "yes"


def test_f34_a_dead_root_disk_reboots_the_board(host):
    """PID 1 feeds the hardware watchdog although nothing can be read any more; this unit does not."""
    unit = host.root("systemctl cat hedgerow-storage-probe.service").splitlines()
    assert "FailureAction=reboot-immediate" in unit
    assert any(line.startswith("WatchdogSec=") for line in unit)
    assert host.service("hedgerow-storage-probe.service").is_enabled
    host.not_in_a_container("its root is on no disk of its own")
    assert host.service("hedgerow-storage-probe.service").is_running
