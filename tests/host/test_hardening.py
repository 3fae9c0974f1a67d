"""What role `hardening` promises of any converged host; hosts among each other: `tests/fleet/test_firewall.py`."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from hedgerow import ssh
from hedgerow.converge import egress, firewall

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

# TEST-NET-2 (RFC 5737): nobody answers there, and no allowlist names it.
NOWHERE = "198.51.100.7"


@pytest.fixture(scope="module")
def sshd(host):
    """The effective configuration for the admin user."""
    shown = host.root(f"/usr/sbin/sshd -T -C user={host.fleet.admin_user},host=x,addr=192.0.2.1")
    return dict(line.split(" ", 1) for line in shown.splitlines() if " " in line)


@pytest.fixture(scope="module")
def rules(host):
    """{rule: state} of the host's own report."""
    report = json.loads(host.root("cat /etc/hedgerow/hardening.json"))
    return {rule["id"]: rule["state"] for rule in report["rules"]}


@pytest.fixture(scope="module")
def ruleset(host, rules):
    """Our table as nft lists it, where there is one."""
    if rules["firewall.inbound"] == "left out":
        pytest.skip("hardening_firewall is off on this host")
    return host.root("nft list table inet hedgerow")


def chain(ruleset: str, name: str) -> str:
    found = re.search(rf"\tchain {name} \{{\n(.*?)\n\t\}}", ruleset, re.DOTALL)
    assert found is not None, f"no chain {name}"
    return found[1]


def login(host, user: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = ssh.command(host.fleet, host.entry)
    command[-1] = f"{user}@{host.entry.address}"
    first = [word for option in options for word in ("-o", option)]
    return subprocess.run(
        [command[0], *first, *command[1:], "true"], capture_output=True, text=True, check=False, timeout=30
    )


# -- sshd ------------------------------------------------------------------


@pytest.mark.parametrize(
    "keyword,value",
    [
        ("passwordauthentication", "no"),
        ("kbdinteractiveauthentication", "no"),
        ("permitrootlogin", "no"),
        ("authenticationmethods", "publickey"),
        ("x11forwarding", "no"),
        ("allowagentforwarding", "no"),
        ("loglevel", "VERBOSE"),
    ],
)
def test_sshd_does_what_our_file_says(sshd, rules, keyword, value):
    waived = {rule.removeprefix("ssh.").lower() for rule, state in rules.items() if state == "waived"}
    if keyword in waived:
        pytest.skip(f"{keyword} is waived on this host")
    assert sshd[keyword] == value


def test_the_running_sshd_offers_a_key_and_nothing_else(host):
    done = login(host, host.fleet.admin_user, "PubkeyAuthentication=no", "PreferredAuthentications=password")
    assert done.returncode != 0
    assert "Permission denied (publickey)" in done.stderr


@pytest.mark.parametrize("user", ["root", "pi"])
def test_nobody_but_the_admin_user_gets_in(host, user):
    allowed = host.root("/usr/sbin/sshd -T | sed -n 's/^allowusers //p'").split()
    if user in allowed:
        pytest.skip(f"hardening_ssh_users lets {user} in on this host")
    assert login(host, user).returncode == 255


def test_a_debian_12_client_logs_in(host):
    """The oldest client that is promised: what its OpenSSH 9.2 offers, of what it shares with trixie's 10.0."""
    done = login(
        host,
        host.fleet.admin_user,
        "KexAlgorithms=curve25519-sha256,sntrup761x25519-sha512@openssh.com",
        "Ciphers=chacha20-poly1305@openssh.com,aes256-gcm@openssh.com",
        "HostKeyAlgorithms=ssh-ed25519",
    )
    assert done.returncode == 0, done.stderr


def test_f31_the_admin_user_becomes_root_without_a_password_of_its_own_right(host):
    """Images since 2026-04-13 have no password-less sudo; first contact's own file is what counts."""
    assert host.run("sudo -n true").rc == 0
    shown = host.root(f"sudo -l -U {host.fleet.admin_user}")
    assert "NOPASSWD: ALL" in shown
    assert host.fleet.admin_user in host.root("cat /etc/sudoers.d/50-hedgerow-admin")


# -- kernel settings -------------------------------------------------------


def test_kernel_settings_hold(host):
    lines = re.findall(r"^(\S+) = (.*)$", host.root("cat /etc/sysctl.d/99-zz-hedgerow.conf"), re.MULTILINE)
    assert lines
    # One visit: /proc/sys of all keys that this kernel has.
    paths = " ".join(f"/proc/sys/{key.replace('.', '/')}" for key, _ in lines)
    shown = host.root(f"for path in {paths}; do if [ -e $path ]; then echo $path $(cat $path); fi; done")
    live = {
        line.split()[0].removeprefix("/proc/sys/").replace("/", "."): line.split()[1:] for line in shown.splitlines()
    }
    assert live, "not one of the keys exists"
    wrong = {key: live[key] for key, value in lines if key in live and live[key] != value.split()}
    assert wrong == {}


def test_settings_of_the_whole_kernel_hold(host):
    host.not_in_a_container("it shares its machine's kernel; only the network namespace has settings of its own")
    text = host.root("cat /etc/sysctl.d/99-zz-hedgerow.conf")
    for key in ("kernel.kptr_restrict", "kernel.dmesg_restrict", "fs.protected_regular"):
        value = re.search(rf"(?m)^{re.escape(key)} = (\S+)$", text)
        assert value is not None
        assert host.root(f"cat /proc/sys/{key.replace('.', '/')}").strip() == value[1]


def test_what_nobody_needs_neither_runs_nor_will(host, rules):
    units = [rule.removeprefix("service.") for rule, state in rules.items() if rule.startswith("service.")
             and state == "enforced"]  # fmt: skip
    assert units
    installed = host.root("systemctl list-unit-files --no-legend --no-pager --plain")
    states = dict(re.findall(r"(?m)^(\S+)\s+(\S+)", installed))
    assert {unit: states[unit] for unit in units if states.get(unit, "masked") != "masked"} == {}


# -- firewall --------------------------------------------------------------


def test_the_firewall_comes_back_at_boot(host, ruleset):
    assert host.service("nftables.service").is_enabled
    assert host.service("hedgerow-egress.timer").is_enabled
    assert host.service("hedgerow-egress.timer").is_running
    # sysinit comes before sshd and before the network; systemd itself would say if it could not order them.
    assert "network-pre.target" in host.root("systemctl show -p Before --value nftables.service")


def test_what_is_not_listed_is_dropped(host, ruleset, rules):
    if rules["firewall.inbound"] != "enforced":
        pytest.skip("the firewall only counts on this host")
    assert "policy drop;" in chain(ruleset, "input")
    assert "policy drop;" in chain(ruleset, "output") or rules["firewall.egress"] == "waived"


def test_open_ports_are_the_contract_s(host, ruleset):
    contract = firewall.ON_GATEWAYS if host.entry.is_gateway else firewall.PORTS
    own = [
        entry for name in ("inbound", "inbound_group", "inbound_host") for entry in host.var(f"hardening_{name}", [])
    ]
    listed = {port for entry in own for port in entry["ports"]}
    opened = {
        int(port)
        for line in chain(ruleset, "input").splitlines()
        if (match := re.search(r"tcp dport (\{[^}]*\}|\d+)", line))
        for port in re.findall(r"\d+", match[1])
    }
    # The one port that a gateway opens only where it renews certificates.
    renews = bool(host.var("renewal_service_enabled"))
    closed = set() if renews else {egress.RENEWAL}
    assert opened - listed == set(contract) - closed


def test_every_port_but_ssh_is_for_somebody_named(host, ruleset):
    for line in chain(ruleset, "input").splitlines():
        if "tcp dport" in line and "tcp dport 22 " not in line:
            assert re.search(r"ip6? saddr ", line), line


def test_a_strange_address_is_refused_at_once_and_counted(host, rules):
    if rules["firewall.egress"] != "enforced":
        pytest.skip("the firewall does not hold egress on this host")
    count = "nft list counter inet hedgerow dropped_out"
    before = int(re.search(r"packets (\d+)", host.root(count))[1])
    done = host.run(f"curl --silent --show-error --max-time 5 http://{NOWHERE}/")
    assert done.rc == 7, "refused at once is exit 7; 28 would be a timeout"
    assert int(re.search(r"packets (\d+)", host.root(count))[1]) > before


def test_name_servers_and_archives_can_be_reached(host, ruleset):
    assert re.search(r"set resolvers_[46] \{[^}]*elements = ", ruleset), "no name server in the firewall's sets"
    uris = re.findall(r"https?://([^/\s]+)", host.root("cat /etc/apt/sources.list /etc/apt/sources.list.d/* || true"))
    assert uris
    for name in sorted(set(uris)):
        address, _, port = name.partition(":")
        probe = f"import socket; socket.create_connection(('{address}', {port or 80}), timeout=10).close()"
        assert host.run(f'python3 -c "{probe}"').rc == 0, name


def test_the_resolver_s_sandbox(host, ruleset):
    shown = host.root("systemd-analyze security hedgerow-egress.service --no-pager")
    assert float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", shown)[1]) <= 2.5


def test_drops_are_in_the_journal(host, rules):
    host.not_in_a_container("the kernel logs for the first network namespace alone (net.netfilter.nf_log_all_netns)")
    if rules["firewall.egress"] != "enforced":
        pytest.skip("the firewall does not hold egress on this host")
    host.run(f"curl --silent --max-time 5 http://{NOWHERE}/")
    assert f"DST={NOWHERE}" in host.root("journalctl -k --no-pager -g 'hedgerow drops out' | tail -n 5")


def test_nothing_waits_to_be_undone(host):
    assert host.root("ls /var/lib/hedgerow/guard").split() == []
    assert host.root("systemctl list-units --all --no-legend --plain 'hedgerow-guard-*'").strip() == ""


# -- F22 -------------------------------------------------------------------


def test_f22_no_model_server_listens_on_the_network(pi):
    """Whatever serves models on loopback, no port but the contract's is open to others."""
    assert pi.ports_outside() <= set(firewall.PORTS)


def test_f22_hailo_ollama_is_told_twice(pi):
    if not pi.shell.package("hailo-gen-ai-model-zoo").is_installed:
        pytest.skip("hailo-gen-ai-model-zoo is not installed on this Pi")
    config = json.loads(pi.root("cat /etc/xdg/hailo-ollama/hailo-ollama.json"))
    assert config["server"]["host"] == "127.0.0.1"
    shown = pi.root("cat /etc/systemd/system/hailo-ollama.service.d/50-hedgerow.conf")
    assert f"OLLAMA_HOST=127.0.0.1:{config['server']['port']}" in shown
    assert "IPAddressDeny=any" in shown
