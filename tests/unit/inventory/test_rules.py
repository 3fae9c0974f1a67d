"""Rules over the merged inventory, on listings as ansible-inventory prints them."""

from __future__ import annotations

import copy as copies

import pytest

from hedgerow import paths
from hedgerow.inventory import files, rules
from hedgerow.inventory.schema import Schema

PATH = paths.repository_root() / "inventory" / "emulated"


@pytest.fixture
def listing(sound_listing):
    return copies.deepcopy(sound_listing)


@pytest.fixture
def judge():
    found, schema = files.read(PATH), Schema.load(PATH)
    return lambda listing: list(rules.problems(PATH, listing, found, schema))


def _hosts(listing):
    return listing["_meta"]["hostvars"]


def _only(problems):
    assert len(problems) == 1, "\n".join(map(str, problems))
    return problems[0]


def test_sound(listing, judge):
    assert judge(listing) == []


def test_two_hosts_with_one_serial(listing, judge):
    _hosts(listing)["pi-orchard-2"]["pi_serial"] = _hosts(listing)["pi-orchard-1"]["pi_serial"].upper()
    problem = _only(judge(listing))
    assert problem.key == "pi_serial"
    assert problem.what == "pi-orchard-1 and pi-orchard-2 have the same serial e0d1c2b3a4950011"
    assert problem.file.endswith("hosts.yml")
    line = (PATH / "hosts.yml").read_text().splitlines()[problem.line - 1]
    assert "e0d1c2b3a4950012" in line
    assert "hosts.yml:" in problem.allowed


def test_two_hosts_with_one_address(listing, judge):
    _hosts(listing)["gw-orchard"]["ansible_host"] = "10.77.0.11"
    assert "same address 10.77.0.11" in _only(judge(listing)).what


def test_one_address_with_a_port_each_is_two_hosts(listing, judge):
    _hosts(listing)["gw-orchard"] |= {"ansible_host": "10.77.0.11", "ansible_port": 2222}
    assert judge(listing) == []


def test_host_without_a_site(listing, judge):
    listing["site_orchard"]["hosts"].remove("pi-orchard-3")
    problem = _only(judge(listing))
    assert problem.what == "host pi-orchard-3 is in no group site_<name>"
    assert "site_orchard" in problem.allowed


def test_host_in_two_sites(listing, judge):
    listing["site_barn"] = {"hosts": ["pi-orchard-3", "gw-orchard"]}
    whats = [problem.what for problem in judge(listing)]
    assert "host pi-orchard-3 is in several sites: site_orchard, site_barn" in whats


def test_site_that_is_not_the_group(listing, judge):
    _hosts(listing)["pi-orchard-1"]["site"] = "orchad"
    problem = _only(judge(listing))
    assert problem.what == "host pi-orchard-1 says site orchad but is in group site_orchard"
    assert (problem.allowed, problem.hint) == ("orchard", "did you mean orchard?")


def test_site_without_a_gateway(listing, judge):
    listing["gateways"]["hosts"] = []
    listing["pis"]["hosts"].append("gw-orchard")
    assert _only(judge(listing)).what == "site orchard has no gateway"


@pytest.mark.parametrize("groups, said", [((), "neither pis nor gateways"), (("pis", "gateways"), "both")])
def test_part_of_a_host(listing, judge, groups, said):
    listing["pis"]["hosts"].remove("pi-orchard-2")
    for group in groups:
        listing[group]["hosts"].append("pi-orchard-2")
    assert said in _only(judge(listing)).what


def test_missing_on_one_host(listing, judge):
    del _hosts(listing)["pi-orchard-1"]["pi_serial"]
    problem = _only(judge(listing))
    assert (problem.key, problem.what) == ("pi_serial", "is missing on host pi-orchard-1")


def test_missing_everywhere_is_said_once(listing, judge):
    for variables in _hosts(listing).values():
        del variables["serving_model"]
    problem = _only(judge(listing))
    assert (problem.key, problem.what) == ("serving_model", "is missing in group_vars/all")


def test_login_as_somebody_else(listing, judge):
    _hosts(listing)["gw-orchard"]["ansible_user"] = "pi"
    problem = _only(judge(listing))
    assert (problem.key, problem.value, problem.allowed) == ("ansible_user", "pi", "hedgerow-admin")


def test_values_of_dynamic_sources_are_judged(listing, judge):
    _hosts(listing)["gw-orchard"]["asset_tag"] = "A1"
    problem = _only(judge(listing))
    assert problem.key == "asset_tag"
    assert "unknown key" in problem.what


def test_no_host(judge):
    assert _only(judge({"_meta": {"hostvars": {}}, "all": {"children": ["ungrouped"]}})).what == "has no host"
