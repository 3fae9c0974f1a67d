"""What role `os_pinning` promises of any converged host: what is installed is what is pinned, and stays so."""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from hedgerow.converge import pins
from hedgerow.device import packages

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


@pytest.fixture
def release(host):
    return msgspec.to_builtins(host.fleet.release)


def installed(host):
    rows = host.root("dpkg-query -W -f '${Package}\\t${db:Status-Status}\\t${Version}\\n'").splitlines()
    return {name: version for name, state, version in (row.split("\t") for row in rows) if state == "installed"}


def test_what_is_installed_is_what_is_pinned(host, release):
    have = installed(host)
    wrong = {
        name: have[name]
        for name, wanted in pins.locked(release, host.entry.hat).items()
        if name in have and not pins.same(wanted, have[name])
    }
    assert wrong == {}


def test_f06_everything_of_the_lock_that_is_installed_is_held(host, release):
    """A kernel that moves without its headers loses the HAT's driver."""
    locked = pins.locked(release, host.entry.hat).keys() & installed(host).keys()
    assert locked <= set(host.root("apt-mark showhold").split())


def test_f01_apt_would_move_nothing_of_the_lock(host, release):
    """Asked for a full upgrade with every hold ignored, apt leaves what belongs together alone."""
    done = host.root("apt-get --simulate --allow-change-held-packages --ignore-hold full-upgrade")
    installs, removed = packages.parse_simulation(done)
    locked = pins.locked(release, host.entry.hat)
    moved = {name: version for name, version in installs.items() if name in locked}
    assert {name: version for name, version in moved.items() if not pins.same(locked[name], version)} == {}
    assert set(removed) & locked.keys() == set()


def test_the_other_npu_s_stack_cannot_be_installed(pi, release):
    if pi.entry.hat == "none":
        pytest.skip("a board without a HAT may become either")
    wrong = "hailo-all" if pi.entry.hat == "hat-plus-2" else "hailo-h10-all"
    assert "Candidate: (none)" in pi.root(f"apt-cache policy {wrong}") or not pi.root(f"apt-cache policy {wrong}")
    assert pi.as_root(f"apt-get --simulate install {wrong}").rc != 0


def test_unattended_upgrades_take_security_fixes_alone_and_leave_the_lock(host, release):
    shown = host.root("apt-config dump")
    assert re.findall(r'^Unattended-Upgrade::Origins-Pattern:: "(.*)";$', shown, re.MULTILINE) == [
        "origin=Debian,codename=${distro_codename},label=Debian-Security"
    ]
    fenced = re.findall(r'^Unattended-Upgrade::Package-Blacklist:: "(.*)";$', shown, re.MULTILINE)
    for name in pins.locked(release, host.entry.hat):
        assert any(re.match(pattern, name) for pattern in fenced), name


def test_f46_no_kernel_waits_unseen(host, release):
    """Where one waits, the role says so and so does the metric; here the running one is the lock's."""
    if host.container and not host.entry.emulated:
        pytest.skip("a container runs its machine's kernel")
    if host.entry.vars.get("virtual_machine"):
        pytest.skip("its kernel is Debian's, whatever the lock says")
    root = "/hardware" if host.container else ""
    running = host.root(f"cat {root}/proc/sys/kernel/osrelease").strip()
    kernel = release["kernel"]
    assert running == f"{kernel['version']}+rpt-{kernel['flavour']}"


def test_the_exporter_s_file_says_what_the_lock_says(host, release):
    assert json.loads(host.root("cat /etc/hedgerow/pins.json"))["packages"] == pins.locked(release, host.entry.hat)


def test_f07_dpkg_is_whole(host):
    assert host.root("dpkg --audit") == ""
