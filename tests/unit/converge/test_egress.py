from __future__ import annotations

from typing import Any

import pytest

from hedgerow.converge import egress
from hedgerow.converge.egress import Allow, listed_rule, outbound
from hedgerow.errors import UsageError


def rules(**change: Any) -> dict[str, Allow]:
    asked: dict[str, Any] = {
        "registry_url": "https://10.0.0.10/",
        "origin": None,
        "apt_sources": [],
        "apt_proxies": [],
        "ntp_servers": [],
        "scraped": [],
        "listed": [],
    } | change
    return {rule.id: rule for rule in outbound(**asked)}


@pytest.mark.parametrize(
    "url,peer,port",
    [
        ("https://10.0.0.10/", "10.0.0.10", 443),
        ("https://registry.example:8443/x/", "registry.example", 8443),
        ("https://[2001:db8::1]/", "2001:db8::1", 443),
    ],
)
def test_the_registry_is_where_the_inventory_says(url: str, peer: str, port: int) -> None:
    assert (rules(registry_url=url)["registry"].peers, rules(registry_url=url)["registry"].ports) == ((peer,), (port,))


@pytest.mark.parametrize("url", ["", "10.0.0.10", "file:///srv", "https:///x"])
def test_a_registry_without_a_server_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="no URL of a server"):
        rules(registry_url=url)


@pytest.mark.parametrize(
    "url,peer,port",
    [
        ("https://models.example.org/meadow", "models.example.org", 443),
        ("https://10.0.0.9:8443", "10.0.0.9", 8443),
        ("https://[2001:db8::1]/meadow", "2001:db8::1", 443),
    ],
)
def test_what_is_cached_may_be_reached(url: str, peer: str, port: int) -> None:
    assert (rules(origin=url)["origin"].peers, rules(origin=url)["origin"].ports) == ((peer,), (port,))
    assert "origin" not in rules()


def test_archives_are_those_of_the_host_itself_each_once() -> None:
    found = rules(
        apt_sources=[
            {"uris": ["http://deb.example/debian", "http://deb.example/security"]},
            {"uris": ["https://tls.example/x", "http://odd.example:8080/y"]},
            {"uris": ["file:/srv/archive", "cdrom:[Debian]/", "mirror+https://list.example/x"]},
        ],
        apt_proxies=["http://proxy.example:3142/"],
    )
    assert found["apt-80"].peers == ("deb.example",)
    assert (found["apt-443"].peers, found["apt-8080"].peers) == (("tls.example", "list.example"), ("odd.example",))
    assert (found["apt-proxy-3142"].peers, found["apt-proxy-3142"].ports) == (("proxy.example",), (3142,))


def test_time_is_never_cut_off() -> None:
    assert rules()["time"] == Allow("time", rules()["time"].why, (), (123,), "udp")
    assert rules(ntp_servers=["10.0.0.1"])["time"].peers == ("10.0.0.1",)


def test_a_gateway_reaches_its_pis_and_a_pi_reaches_none() -> None:
    assert rules(scraped=["10.0.0.11"])["scrape"].ports == (8443, 9100, 9101)
    assert "scrape" not in rules()


def test_the_operator_s_own_list() -> None:
    entry = {"id": "mender", "to": "mender.example", "ports": [443], "reason": "updates"}
    assert rules(listed=[entry])["mender"] == Allow("mender", "updates", ("mender.example",), (443,))


@pytest.mark.parametrize(
    "change,text",
    [
        ({"reason": ""}, "no reason"),
        ({"ports": []}, "no ports"),
        ({"ports": [0]}, "are no ports"),
        ({"ports": ["443"]}, "are no ports"),
        ({"protocol": "icmp"}, "no protocol"),
        ({"port": 443}, "unknown port"),
        ({"to": None}, "no to"),
    ],
)
def test_an_entry_that_says_too_little_is_refused_with_its_name(change: dict[str, Any], text: str) -> None:
    entry = {"id": "mender", "to": "mender.example", "ports": [443], "reason": "updates"} | change
    with pytest.raises(UsageError, match=text) as caught:
        listed_rule(entry, "hardening_egress", "to")
    assert "mender" in str(caught.value.where)


def test_names_are_told_from_addresses() -> None:
    assert [egress.is_name(peer) for peer in ("10.0.0.1", "10.0.0.0/8", "2001:db8::/32", "deb.example")] == [
        False, False, False, True,
    ]  # fmt: skip
