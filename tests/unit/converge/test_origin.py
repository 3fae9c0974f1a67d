"""The inventory's word of an origin, as nginx and the firewall take it."""

from __future__ import annotations

from typing import Any

import pytest

from hedgerow.converge import origin
from hedgerow.errors import UsageError

HOSTVARS: dict[str, dict[str, Any]] = {
    "gw-a": {"ansible_host": "10.0.0.10", "site": "a", "fleet": "meadow", "pi_serial": "00000000000000aa"},
    "gw-b": {"ansible_host": "10.0.1.10", "site": "b", "fleet": "meadow", "pi_serial": "00000000000000bb"},
}


def fleet(**origins: str) -> list[dict[str, Any]]:
    hostvars = {
        name: variables
        | ({"registry_mirror_origin": origins[name.replace("-", "_")]} if name.replace("-", "_") in origins else {})
        for name, variables in HOSTVARS.items()
    }
    return origin.gateways(hostvars, hostvars)


def plan(
    url: str | None, *, found: list[dict[str, Any]] | None = None, nameservers: Any = ("192.0.2.53",), **change: Any
) -> Any:
    asked = {
        "origin": url,
        "origin_ca": None,
        "origin_name": None,
        "origin_certificate": False,
        "origin_resolvers": [],
        "metadata_s": 5,
        "cache_mb": 8000,
        "cache_free_mb": 1000,
    } | change
    return origin.plan(asked, host="gw-a", found=fleet() if found is None else found, nameservers=nameservers)


def test_without_one_there_is_nothing() -> None:
    assert plan(None) is None


def test_a_bucket_is_known_by_its_name_and_trusted_by_the_system() -> None:
    assert plan("https://models.s3.eu-central-1.amazonaws.com/meadow/") == {
        "authority": "models.s3.eu-central-1.amazonaws.com:443",
        "prefix": "/meadow",
        "name": "models.s3.eu-central-1.amazonaws.com",
        "header": "models.s3.eu-central-1.amazonaws.com",
        "resolvers": ["192.0.2.53"],
        "trusted": origin.SYSTEM_CA,
        "own_certificate": False,
    }


def test_an_own_port_name_and_authority() -> None:
    found = plan(
        "https://[2001:db8::1]:8443", origin_name="models.example.org", origin_ca="/ca", origin_certificate=True
    )
    assert found == {
        "authority": "[2001:db8::1]:8443",
        "prefix": "",
        "name": "models.example.org",
        "header": "models.example.org:8443",
        "resolvers": [],
        "trusted": origin.OWN_CA,
        "own_certificate": True,
    }


def test_another_gateway_is_known_by_its_address_alone() -> None:
    found = plan("https://10.0.1.10/", nameservers=())
    assert (found["name"], found["trusted"], found["own_certificate"]) == ("gw-b.b.meadow", origin.FLEET_CA, True)


def test_a_gateway_lets_in_those_whose_origin_it_is() -> None:
    found = fleet(gw_a="https://10.0.1.10/")
    assert origin.readers("gw-b", found) == ["00000000000000aa"]
    assert origin.readers("gw-a", found) == []
    assert origin.readers("pi-1", found) == []
    assert origin.readers("gw-a", fleet(gw_a="https://models.example.org/")) == []


@pytest.mark.parametrize(
    "origins",
    [{"gw_a": "https://10.0.1.10/", "gw_b": "https://10.0.0.10/"}, {"gw_a": "https://10.0.0.10/"}],
)
def test_gateways_that_would_ask_each_other_for_ever_are_refused(origins: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="in a circle: gw-a"):
        plan(origins["gw_a"], found=fleet(**origins))


@pytest.mark.parametrize(
    "url,text",
    [
        ("http://models.example.org", "no https address"),
        ("models.example.org", "no https address"),
        ("https:///meadow", "no https address"),
        ("https://models.example.org:0", "no https address"),
        ("https://Models_1.example.org;", "no https address"),
        ("https://models.example.org:x", "no URL"),
        ("https://models.example.org/a b", "other characters"),
        ("https://models.example.org/$uri", "other characters"),
        ("https://models.example.org/a;b", "other characters"),
        ("https://models.example.org/a/../b", "other characters"),
        ("https://models.example.org/a//b", "other characters"),
        ("s3://models/meadow", "no credentials of a store"),
        ("https://192.0.2.7/meadow", "is in no certificate"),
        ("https://[fe80::1%25eth0]/", "no https address"),
    ],
)
def test_what_nginx_could_not_take_is_refused_with_what_to_type(url: str, text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        plan(url)
    assert caught.value.next_step


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@models.example.org/",
        "https://models.example.org/?token=hunter2",
        "https://x.test/#hunter2",
    ],
)
def test_a_secret_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    for refused in (lambda: plan(url), lambda: origin.address(url)):
        with pytest.raises(UsageError, match="no user, password, query or token") as caught:
            refused()
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "change,text",
    [
        ({"metadata_s": 0}, "not between 1 and 60"),
        ({"metadata_s": 61}, "not between 1 and 60"),
        ({"cache_mb": 63}, "holds no release"),
        ({"cache_free_mb": -1}, "holds no release"),
        ({"origin_name": "a b"}, "no name of a server"),
        ({"origin_resolvers": ["dns.example.org"]}, "no address of a name server"),
        ({"nameservers": ()}, "nobody can be asked"),
        ({"nameservers": ("fe80::1",)}, "nobody can be asked"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        plan("https://models.example.org/", **change)


def test_listed_name_servers_go_before_the_host_s_own() -> None:
    assert plan("https://models.example.org", origin_resolvers=["2001:db8::53"])["resolvers"] == ["[2001:db8::53]"]
    assert plan("https://models.example.org", nameservers=["127.0.0.53", "fe80::1", "127.0.0.53"])["resolvers"] == [
        "127.0.0.53"
    ]
