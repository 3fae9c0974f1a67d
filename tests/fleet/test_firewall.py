"""The firewall between hosts, and every attempt to lock the controller out: what is wrong undoes itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hedgerow import ssh

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

NOWHERE = "198.51.100.7"  # TEST-NET-2
SSHD = "/etc/ssh/sshd_config.d/00-hedgerow.conf"
# `nft -f` with this drops every new SSH connection, before our own table is asked.
CUT = """\
table inet cut
delete table inet cut
table inet cut {
    chain input {
        type filter hook input priority -10; policy accept;
        tcp dport 22 ct state new drop
    }
}
"""


@pytest.fixture(autouse=True)
def enforced(controller: Any) -> None:
    """Each test begins on hosts whose firewall enforces, whatever the one before left."""
    for host in controller.inventory.hosts:
        if "policy drop" not in controller.on(host, "nft list chain inet hedgerow input").stdout:
            pytest.skip("hardening_firewall is not enforce on this fleet")


def connects(controller: Any, source: str, address: str, port: int) -> bool:
    probe = f"import socket; socket.create_connection(('{address}', {port}), timeout=3).close()"
    return controller.on(source, f'python3 -c "{probe}"').returncode == 0


def packets(controller: Any, host: str, counter: str) -> int:
    shown = controller.on(host, f"nft list counter inet hedgerow {counter}").stdout
    return int(re.search(r"packets (\d+)", shown)[1])


def harden(controller: Any, host: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    return controller.play("site.yml", "--tags", "hardening", "--limit", host, "-e", json.dumps(variables))


def guarded(controller: Any, folder: Path, host: str, **task: Any) -> subprocess.CompletedProcess[str]:
    """One `hedgerow_guarded` task on a host, as a playbook of its own."""
    play = {
        "hosts": host,
        "become": True,
        "gather_facts": False,
        "tasks": [{"name": "Guarded", "hedgerow_guarded": {"name": "test", "within_s": 10} | task}],
    }
    path = folder / "guarded.yml"
    path.write_text(yaml.safe_dump([play]))
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", controller.inventory.path, path]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=180)


def login(controller: Any, host: str) -> bool:
    """A new TCP connection and a new login."""
    command = ssh.command(controller.inventory, controller.inventory.hosts[host])
    return subprocess.run([*command, "true"], capture_output=True, check=False, timeout=60).returncode == 0


@pytest.fixture
def pi(controller: Any) -> str:
    return controller.pis[0]


@pytest.fixture
def other(controller: Any) -> Any:
    return controller.inventory.hosts[controller.pis[1]]


@pytest.fixture
def gateway(controller: Any) -> str:
    return controller.inventory.gateways[0].name


# -- between hosts ---------------------------------------------------------


def test_a_pi_does_not_reach_another_pi_s_server(controller, pi, other):
    before = packets(controller, pi, "dropped_out")
    assert not connects(controller, pi, other.address, 8443)
    assert packets(controller, pi, "dropped_out") > before


def test_nor_does_a_pi_that_was_taken_over_and_lost_its_own_firewall(controller, pi, other):
    rule = "nft insert rule inet hedgerow output tcp dport 8443 accept"
    assert controller.on(pi, rule).returncode == 0
    try:
        before = packets(controller, other.name, "dropped_in")
        assert not connects(controller, pi, other.address, 8443)
        assert packets(controller, other.name, "dropped_in") > before
    finally:
        controller.on(pi, "systemctl reload nftables.service")


def test_a_gateway_reaches_its_pis_metrics(controller, pi, gateway):
    address = controller.inventory.hosts[pi].address
    assert all(connects(controller, gateway, address, port) for port in (8443, 9100, 9101))


def test_a_gateway_reaches_nothing_else_of_a_pi(controller, pi, gateway):
    assert not connects(controller, gateway, controller.inventory.hosts[pi].address, 22)


def test_a_pi_reaches_its_registry_and_no_strange_address(controller, pi, gateway):
    assert connects(controller, pi, controller.inventory.hosts[gateway].address, 443)
    before = packets(controller, pi, "dropped_out")
    assert not connects(controller, pi, NOWHERE, 443)
    assert packets(controller, pi, "dropped_out") > before


def test_apt_gets_its_lists_through_it(controller, pi):
    done = controller.on(pi, "apt-get update --error-on=any")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_firewall_holds_from_boot_on(controller, pi, wait):
    """Power off and on, as a pulled plug: rules stand before anybody can log in, and names resolve again."""
    assert controller.hedgerow("emulate", "power", pi, "cycle").returncode == 0
    wait(lambda: login(controller, pi))
    assert "policy drop" in controller.on(pi, "nft list chain inet hedgerow input").stdout
    wait(
        lambda: "elements" in controller.on(pi, "nft list set inet hedgerow resolvers_4").stdout,
    )
    wait(lambda: connects(controller, pi, controller.inventory.gateways[0].address, 443))


def test_a_rule_that_somebody_adds_by_hand_goes_with_the_next_converge(controller, pi):
    assert controller.on(pi, "nft insert rule inet hedgerow input tcp dport 4444 accept").returncode == 0
    done = harden(controller, pi)
    assert done.returncode == 0, done.stdout
    assert re.search(r"changed=[1-9]", done.stdout)
    assert "4444" not in controller.on(pi, "nft list chain inet hedgerow input").stdout
    assert "changed=0" in harden(controller, pi).stdout


# -- lock-out attempts: the firewall ---------------------------------------


def test_a_ruleset_that_cuts_the_controller_off_undoes_itself(controller, pi, tmp_path):
    done = guarded(
        controller,
        tmp_path,
        pi,
        files=[{"content": CUT, "dest": "/etc/cut.nft", "validate": "nft -c -f %s"}],
        apply=[{"argv": ["nft", "-f", "/etc/cut.nft"], "for": ["/etc/cut.nft"]}],
        revert=[["nft", "destroy", "table", "inet", "cut"]],
    )
    assert done.returncode == 2, done.stdout
    assert "no new SSH login after the change" in done.stdout
    assert "has undone it by itself" in done.stdout
    assert login(controller, pi)
    assert controller.on(pi, "ls /etc/cut.nft; nft list table inet cut").returncode != 0


def test_a_controller_that_dies_before_it_confirms_leaves_nothing_behind(controller, pi, wait):
    """The host's part alone: armed, changed, and nobody ever comes back."""
    arm = _host_script("arm", paths=["/etc/cut.nft"], live={}, within_s=5,
                       commands=[["nft", "destroy", "table", "inet", "cut"]], source=_source())  # fmt: skip
    assert controller.on(pi, "python3 -", stdin=arm).returncode == 0
    assert controller.on(pi, "cat > /etc/cut.nft && nft -f /etc/cut.nft", stdin=CUT.encode()).returncode == 0
    assert not login(controller, pi)
    wait(lambda: login(controller, pi))
    assert controller.on(pi, "test -e /etc/cut.nft -o -e /var/lib/hedgerow/guard/test").returncode == 1


def test_a_power_cut_before_the_confirmation_undoes_it_at_boot(controller, pi, wait):
    """What cuts us off is in a file that every boot reads, and the clock of the guard is gone with the power."""
    bad = "/etc/ssh/sshd_config.d/00-aaa.conf"
    arm = _host_script("arm", paths=[bad], live={}, within_s=3600, commands=[], source=_source())
    assert controller.on(pi, "python3 -", stdin=arm).returncode == 0
    assert controller.on(pi, f"echo 'AllowUsers nobody' > {bad} && sync").returncode == 0
    assert controller.hedgerow("emulate", "power", pi, "cycle").returncode == 0
    wait(lambda: login(controller, pi))
    assert controller.on(pi, f"test -e {bad} -o -e /var/lib/hedgerow/guard/test").returncode == 1
    assert controller.on(pi, "ls /etc/systemd/system/sysinit.target.wants").stdout.count("guard") == 0


def test_networks_without_this_controller_are_refused_before_anything_is_touched(controller, pi):
    before = controller.on(pi, "stat -c %Y /etc/nftables.conf").stdout
    done = harden(controller, pi, hardening_operator_networks=["192.0.2.0/24"])
    assert done.returncode == 2
    assert "would lock this controller out" in done.stdout
    assert controller.on(pi, "stat -c %Y /etc/nftables.conf").stdout == before


def test_a_waiver_that_has_ended_is_refused(controller, pi):
    waiver = {"rule": "ssh.X11Forwarding", "reason": "a test", "until": "2026-01-01"}
    done = harden(controller, pi, hardening_waivers=[waiver])
    assert done.returncode == 2
    assert "ended on 2026-01-01" in done.stdout


# -- lock-out attempts: sshd -----------------------------------------------


def test_a_configuration_that_sshd_refuses_never_lands(controller, pi):
    before = controller.on(pi, f"cat {SSHD}").stdout
    done = harden(controller, pi, hardening_ssh_users=['"unterminated'])
    assert done.returncode == 2, done.stdout
    assert "nothing was written" in done.stdout
    assert controller.on(pi, f"cat {SSHD}").stdout == before
    assert login(controller, pi)


@pytest.mark.parametrize(
    "line,text",
    [
        ("PasswordAuthentication yes", "PasswordAuthentication is yes, our file says no"),
        ("NoSuchOption yes", "Bad configuration option: NoSuchOption"),
    ],
)
def test_another_file_that_wins_or_breaks_it_is_found_before_sshd_is_reloaded(controller, pi, line, text):
    """The whole configuration is judged, not our file alone: 00-aaa comes before 00-hedgerow."""
    before = controller.on(pi, f"cat {SSHD}").stdout
    assert controller.on(pi, f"echo '{line}' > /etc/ssh/sshd_config.d/00-aaa.conf").returncode == 0
    try:
        done = harden(controller, pi, hardening_ssh_auth_tries=3)
        assert done.returncode == 2, done.stdout
        assert text in re.sub(r"\s+", " ", done.stdout)
        assert controller.on(pi, f"cat {SSHD}").stdout == before, "the previous file stays"
        assert login(controller, pi)
    finally:
        controller.on(pi, "rm /etc/ssh/sshd_config.d/00-aaa.conf")


def test_a_valid_configuration_that_lets_nobody_in_undoes_itself_and_cuts_no_session(controller, pi):
    """A list of revoked keys that cannot be read refuses every key, and `sshd -t` finds nothing wrong with it."""
    before = controller.on(pi, f"cat {SSHD}").stdout
    command = ssh.command(controller.inventory, controller.inventory.hosts[pi])
    with subprocess.Popen([*command, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:
        session.stdin.write("first\n")
        session.stdin.flush()
        assert session.stdout.readline() == "first\n"
        done = harden(controller, pi, hardening_ssh_revoked_keys="/nonexistent/revoked", hardening_confirm_s=10)
        session.stdin.write("still here\n")
        session.stdin.close()
        assert session.stdout.read() == "still here\n"
    assert done.returncode == 2, done.stdout
    assert "has undone it by itself" in done.stdout
    assert controller.on(pi, f"cat {SSHD}").stdout == before
    assert login(controller, pi)


def test_the_first_user_can_be_locked_out_and_the_admin_user_not(controller, pi):
    assert controller.on(pi, "test -e /etc/sudoers.d/010_pi-nopasswd").returncode == 0, "the image's own"
    kept = controller.on(pi, "cat /etc/sudoers.d/010_pi-nopasswd; cat /home/pi/.ssh/authorized_keys").stdout
    assert kept
    try:
        done = harden(controller, pi, hardening_lock_first_user=True)
        assert done.returncode == 0, done.stdout
        assert controller.on(pi, "runuser -u pi -- sudo -n true").returncode != 0
        assert controller.on(pi, "test -e /home/pi/.ssh/authorized_keys").returncode == 1
        assert login(controller, pi)
    finally:
        sudoers, _, keys = kept.partition("\n")
        controller.on(pi, "install -m 0440 /dev/stdin /etc/sudoers.d/010_pi-nopasswd", stdin=f"{sudoers}\n".encode())
        controller.on(pi, "install -m 0600 -o pi -g pi /dev/stdin /home/pi/.ssh/authorized_keys", stdin=keys.encode())
    done = harden(controller, pi, hardening_lock_first_user=True, hardening_first_user=controller.inventory.admin_user)
    assert done.returncode == 2
    assert controller.inventory.admin_user in done.stdout


@pytest.fixture(autouse=True, scope="module")
def restored(controller: Any) -> Iterator[None]:
    """The fleet as the inventory says, for the tests of other files."""
    yield
    done = controller.play("site.yml", "--tags", "hardening")
    assert done.returncode == 0, done.stdout


def _host_script(function: str, **arguments: Any) -> bytes:
    from hedgerow import remote_script

    return remote_script.build("hedgerow.device.guard", function, name="test", **arguments).encode()


def _source() -> str:
    from hedgerow.device import guard

    return Path(guard.__file__).read_text(encoding="utf-8")
