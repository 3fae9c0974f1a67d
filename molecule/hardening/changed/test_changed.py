"""After other input: what was asked for is there, what was taken off is gone, and the firewall only counts."""

from __future__ import annotations

import json
import re

import pytest

pytestmark = pytest.mark.fleet


@pytest.fixture(scope="module")
def ruleset(host):
    return host.root("nft list table inet hedgerow")


def test_a_firewall_that_reports_drops_nothing_and_counts(host, ruleset):
    assert "policy drop" not in ruleset
    assert "reject" not in ruleset
    count = "nft list counter inet hedgerow dropped_out"
    before = int(re.search(r"packets (\d+)", host.root(count))[1])
    host.run("curl --silent --max-time 2 http://198.51.100.7/")
    assert int(re.search(r"packets (\d+)", host.root(count))[1]) > before


def test_own_rules_are_there_and_names_are_sets(ruleset):
    assert re.search(r'ip saddr 192\.0\.2\.0/24 tcp dport 4443 .* accept comment "demo"', ruleset)
    assert re.search(r'ip daddr 203\.0\.113\.9 udp dport 514 .* accept comment "upstream"', ruleset)
    found = re.search(r"set to_upstream_4 \{(.*?)\}", ruleset, re.DOTALL)
    assert "elements" not in found[1], "a name that resolves to the host itself opens nothing"


def test_kernel_settings_of_the_group_win_and_null_takes_off(host):
    assert host.root("cat /proc/sys/net/ipv4/tcp_syncookies").strip() == "2"
    assert "tcp_rfc1337" not in host.root("cat /etc/sysctl.d/99-zz-hedgerow.conf")


def test_the_unused_service_is_gone_for_good(host):
    shown = host.root("systemctl show -p ActiveState -p UnitFileState unused-by-us.service").split()
    assert set(shown) == {"ActiveState=inactive", "UnitFileState=masked"}


def test_the_waived_rule_is_off_and_said(host):
    assert "MaxStartups" not in host.root("cat /etc/ssh/sshd_config.d/00-hedgerow.conf")
    rules = {rule["id"]: rule for rule in json.loads(host.root("cat /etc/hedgerow/hardening.json"))["rules"]}
    assert rules["ssh.MaxStartups"] == {
        "id": "ssh.MaxStartups",
        "state": "waived",
        "detail": "a test (until 2999-01-01)",
    }


def test_ssh_forwards_what_was_allowed(host):
    assert "allowtcpforwarding local" in host.root("/usr/sbin/sshd -T")


def test_f22_the_model_server_of_the_hat_was_told_and_restarted(gateway):
    config = json.loads(gateway.root("cat /etc/xdg/hailo-ollama/hailo-ollama.json"))
    assert config["server"] == {"host": "127.0.0.1", "port": 11434}
    pid = gateway.root("systemctl show -p MainPID --value hailo-ollama.service").strip()
    assert "OLLAMA_HOST=127.0.0.1:11434" in gateway.root(f"tr '\\0' '\\n' < /proc/{pid}/environ")
