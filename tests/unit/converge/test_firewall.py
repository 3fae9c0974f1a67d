from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hedgerow.converge import firewall
from hedgerow.converge.egress import Allow
from hedgerow.errors import RefusedError, UsageError

CONTRACTS = Path(__file__).parents[3] / "docs/contracts.md"
PEERS = [
    {"name": "gw", "address": "10.0.0.10", "site": "a", "registry": "10.0.0.10", "gateway": True},
    {"name": "pi-1", "address": "10.0.0.11", "site": "a", "registry": "10.0.0.10", "gateway": False},
    {"name": "pi-2", "address": "10.0.0.12", "site": "a", "registry": "10.0.0.10", "gateway": False},
    {"name": "pi-b", "address": "10.0.1.11", "site": "b", "registry": "10.0.0.10", "gateway": False},
]
STATE = {"ssh_client": "10.0.0.1", "apt_sources": [], "apt_proxies": [], "packages": {}}


def plan(host: str, state: dict[str, Any] | None = None, **change: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "host": host,
        "peers": PEERS,
        "gateway": host == "gw",
        "renewal": None,
        "registry_url": "https://10.0.0.10/",
        "archives": None,
        "ntp_servers": [],
        "forwarding": None,
        "operators": ["10.0.0.1"],
        "clients": [],
        "monitors": [],
        "inbound": [],
        "egress": [],
    } | change
    return firewall.plan(STATE | (state or {}), asked)


def by_port(found: dict[str, Any], side: str = "inbound") -> dict[int, set[str]]:
    return {port: set(rule["peers"]) for rule in found[side] for port in rule["ports"]}


def contract_ports() -> dict[int, str]:
    """Port → who may, of the table in the contract; the ones on loopback and the ones not served are left out."""
    section = CONTRACTS.read_text(encoding="utf-8").split("## Ports on a device")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \|$", section, re.MULTILINE)
    return {int(port): who for port, _, who in rows if "not served" not in who}


def test_the_ports_are_those_of_the_contract() -> None:
    assert set(firewall.PORTS) == set(contract_ports())
    assert firewall.ON_GATEWAYS[443][0] == "registry"


def test_a_pi_lets_in_operators_and_its_gateway_and_no_other_pi() -> None:
    assert by_port(plan("pi-1")) == {
        22: {"10.0.0.1"},
        8443: {"10.0.0.1", "10.0.0.10"},
        8444: {"10.0.0.1", "10.0.0.10"},
        9100: {"10.0.0.1", "10.0.0.10"},
        9101: {"10.0.0.1", "10.0.0.10"},
    }


def test_a_gateway_of_another_site_is_nobody() -> None:
    assert "10.0.0.10" not in by_port(plan("pi-b"))[9101]


def test_a_gateway_serves_whoever_fetches_from_it_wherever_it_stands() -> None:
    found = by_port(plan("gw"))
    assert found[443] == {"10.0.0.1", "10.0.0.11", "10.0.0.12", "10.0.1.11"}
    assert 8443 not in found
    assert by_port(plan("gw"), "outbound")[9101] == {"10.0.0.11", "10.0.0.12"}


def test_clients_and_monitors_come_in_where_they_belong() -> None:
    found = by_port(plan("pi-1", clients=["10.9.0.0/16"], monitors=["10.8.0.5"]))
    assert "10.9.0.0/16" in found[8443] & found[8444]
    assert "10.8.0.5" in found[9100] & found[9101]
    assert not {"10.9.0.0/16", "10.8.0.5"} & found[22]


def test_without_operator_networks_ssh_stays_open_and_the_rest_is_for_the_one_who_asks() -> None:
    found = plan("pi-1", operators=[])
    assert found["ssh_open"]
    assert by_port(found)[22] == set()
    assert "10.0.0.1" in by_port(found)[8443]
    assert next(rule["matches"] for rule in found["inbound"] if rule["id"] == "ssh") == ["tcp dport 22"]


@pytest.mark.parametrize("networks", [["192.0.2.0/24"], ["2001:db8::/32"], ["10.0.0.2", "10.0.0.3"]])
def test_networks_without_this_controller_are_refused(networks: list[str]) -> None:
    with pytest.raises(RefusedError, match=r"would lock this controller out: it comes from 10\.0\.0\.1"):
        plan("pi-1", operators=networks)


@pytest.mark.parametrize("networks", [["10.0.0.0/24"], ["192.0.2.1", "10.0.0.1"], ["2001:db8::/32", "10.0.0.1"]])
def test_networks_with_it_pass(networks: list[str]) -> None:
    assert plan("pi-1", operators=networks)["inbound"]


def test_a_way_in_hangs_on_no_name_server() -> None:
    with pytest.raises(UsageError, match=r"'bastion\.example' is no address"):
        plan("pi-1", operators=["10.0.0.1", "bastion.example"])


def test_matches_are_nft_s_by_family_and_names_are_sets() -> None:
    allow = Allow("apt-80", "w", ("10.0.0.1", "2001:db8::/32", "deb.example"), (80, 443))
    assert firewall.rendered([allow], "daddr")[0]["matches"] == [
        "ip daddr { 10.0.0.1 } tcp dport { 80, 443 }",
        "ip6 daddr { 2001:db8::/32 } tcp dport { 80, 443 }",
        "ip daddr @to_apt_80_4 tcp dport { 80, 443 }",
        "ip6 daddr @to_apt_80_6 tcp dport { 80, 443 }",
    ]
    assert firewall.name_sets([allow], "daddr") == {"to_apt_80_4": ["deb.example"]}


def test_overlapping_networks_are_one_since_nft_refuses_them() -> None:
    allow = Allow("x", "w", ("10.0.0.0/24", "10.0.0.7", "10.0.1.0/24"), (22,))
    assert firewall.rendered([allow], "saddr")[0]["matches"] == ["ip saddr { 10.0.0.0/23 } tcp dport 22"]


@pytest.mark.parametrize("ids", [("a", "a"), ("A",), ("a b",), ("",)])
def test_ids_are_names_and_single(ids: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="id of"):
        firewall.rendered([Allow(name, "w", (), (1,)) for name in ids], "saddr")


@pytest.mark.parametrize(
    "wanted,packages,expected",
    [(None, {}, False), (None, {"podman": "5"}, True), (False, {"podman": "5"}, False), (True, {}, True)],
)
def test_forwarding_is_for_containers(wanted: Any, packages: dict[str, str], expected: Any) -> None:
    assert plan("pi-1", {"packages": packages}, forwarding=wanted)["forwards"] is expected


def test_archives_that_this_very_run_places_or_removes_count_already() -> None:
    """Or the run after the first would change the firewall again."""
    present = [
        {"uris": ["http://deb.example/"], "file": "debian.sources"},
        {"uris": ["http://old.example/"], "file": "hedgerow-old.sources"},
    ]
    wanted = [{"name": "new", "uris": ["https://new.example/"]}]
    found = plan("pi-1", {"apt_sources": present}, archives=wanted)
    assert found["sets"] == {"to_apt_80_4": ["deb.example"], "to_apt_443_4": ["new.example"]}
    assert plan("pi-1", {"apt_sources": present})["sets"] == {"to_apt_80_4": ["deb.example", "old.example"]}


def test_peers_come_from_the_inventory() -> None:
    hostvars = {"gw": {"ansible_host": "10.0.0.10", "site": "a", "registry_url": "https://10.0.0.10:8443/"}}
    assert firewall.peers(hostvars, ["gw"], ["gw"]) == [PEERS[0]]


def test_a_gateway_opens_the_port_of_renewals_where_it_renews_for_its_own_site() -> None:
    assert 8445 not in by_port(plan("gw"))
    assert by_port(plan("gw", renewal=True))[8445] == {"10.0.0.1", "10.0.0.11", "10.0.0.12"}
    assert 8445 not in by_port(plan("gw", renewal=True), "outbound")


def test_a_pi_that_renews_gets_out_to_its_gateway_s_port() -> None:
    assert 8445 not in by_port(plan("pi-1"), "outbound")
    assert by_port(plan("pi-1", renewal="https://10.0.0.10:8445"), "outbound")[8445] == {"10.0.0.10"}
    assert by_port(plan("pi-1", renewal="https://10.0.0.10"), "outbound")[8445] == {"10.0.0.10"}
    assert by_port(plan("pi-1", renewal="https://10.0.0.10:9443"), "outbound")[9443] == {"10.0.0.10"}
