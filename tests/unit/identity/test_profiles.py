from pathlib import Path

import pytest
import yaml

from hedgerow.errors import UsageError
from hedgerow.identity.profiles import DeviceNames, Peer, Profile, Right, check_client_name, peer

# docs/contracts.md, "Certificate profiles", as a truth table.
MAY = {
    Profile.DEVICE: {Right.READ_REGISTRY},
    Profile.GATEWAY: {Right.OBSERVE},
    Profile.MONITOR: {Right.OBSERVE},
    Profile.CLIENT: {Right.INFER},
    Profile.OPERATOR: {Right.READ_REGISTRY, Right.OBSERVE, Right.INFER, Right.CONTROL},
    Profile.PUBLISHER: {Right.PUBLISH},
}


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("right", Right)
def test_a_profile_may_exactly_what_the_contract_says(profile, right):
    assert Peer("meadow", profile, "x", "orchard").may(right, site="orchard") == (right in MAY[profile])


@pytest.mark.parametrize(
    "role,key,right",
    [
        ("registry_mirror", "_registry_mirror_readers", Right.READ_REGISTRY),
        ("node_exporter", "_node_exporter_profiles", Right.OBSERVE),
    ],
)
def test_servers_that_are_not_ours_are_configured_by_the_same_table(role, key, right):
    """A gateway is left out where it is: its right ends at its own site, so node_exporter names it by host."""
    wanted = {profile.value for profile, rights in MAY.items() if right in rights and profile is not Profile.GATEWAY}
    text = (Path(__file__).parents[3] / "roles" / role / "vars" / "main.yml").read_text()
    assert set(yaml.safe_load(text)[key]) == wanted


def test_a_gateway_observes_its_own_site_only():
    gateway = Peer("meadow", Profile.GATEWAY, "10000000a1b2c3d4", "orchard")
    assert gateway.may(Right.OBSERVE, site="orchard")
    assert not gateway.may(Right.OBSERVE, site="field")


def certificate(*, units=("operator",), names=("demo",), fleets=("meadow",), sans=()):
    keys = {"organizationName": fleets, "organizationalUnitName": units, "commonName": names}
    subject = tuple(((key, value),) for key, values in keys.items() for value in values)
    return {"subject": subject, "subjectAltName": tuple(sans)}


def test_a_client_is_read_from_its_subject():
    assert peer(certificate()) == Peer("meadow", Profile.OPERATOR, "demo")


def test_a_device_brings_its_site():
    sans = [("DNS", "pi-1.orchard.meadow"), ("URI", "hedgerow://meadow/device/10000000a1b2c3d4")]
    found = peer(certificate(units=("device",), names=("10000000a1b2c3d4",), sans=sans))
    assert found == Peer("meadow", Profile.DEVICE, "10000000a1b2c3d4", "orchard")


@pytest.mark.parametrize(
    "broken",
    [
        None,
        {},
        certificate(units=()),
        certificate(units=("admin",)),
        certificate(units=("client", "operator")),
        certificate(names=("a", "b")),
        certificate(fleets=()),
        certificate(units=("gateway",)),
        certificate(units=("gateway",), sans=[("DNS", "gw.orchard.other")]),
        certificate(units=("gateway",), sans=[("DNS", "gw.orchard.meadow"), ("DNS", "gw.field.meadow")]),
    ],
)
def test_whatever_is_not_one_profile_of_one_fleet_is_nobody(broken):
    assert peer(broken) is None


@pytest.mark.parametrize(
    "change",
    [{"host": "Pi_1"}, {"site": ""}, {"fleet": "a.b"}, {"host": "-x"}, {"serial": "10000000A1B2C3D4"}, {"serial": "1"}],
)
def test_names_that_no_certificate_can_carry_are_refused(change):
    good = {"fleet": "meadow", "site": "orchard", "host": "pi-1", "serial": "10000000a1b2c3d4"}
    with pytest.raises(UsageError):
        DeviceNames(**good | change)


@pytest.mark.parametrize("name", ["jane.doe", "", "../x", "a" * 64, "x y", "a,OU=operator", "naïve"])
def test_client_names_that_read_as_something_else_are_refused(name):
    with pytest.raises(UsageError):
        check_client_name(name)


def issuer(unit, name):
    return ((("organizationName", "meadow"),), (("organizationalUnitName", unit),), (("commonName", name),))


@pytest.mark.parametrize(
    "unit,name,profile,site,known",
    [
        ("site-ca", "orchard", "device", "orchard", True),
        ("site-ca", "orchard", "gateway", "orchard", True),
        ("site-ca", "orchard", "device", "barn", False),
        ("site-ca", "orchard", "operator", None, False),
        ("site-ca", "orchard", "client", None, False),
        ("fleet-ca", "meadow", "operator", None, True),
        ("fleet-ca", "meadow", "device", "barn", True),
    ],
)
def test_a_sites_ca_is_believed_for_its_own_machines_alone(*, unit, name, profile, site, known):
    """X.509's constraints hold it to the site's DNS names; that it names no operator, only this does."""
    sans = () if site is None else (("DNS", f"pi-1.{site}.meadow"),)
    found = peer(certificate(units=(profile,), sans=sans) | {"issuer": issuer(unit, name)})
    assert (found is not None) == known


def test_a_site_cas_second_name_does_not_help_it():
    twice = (*issuer("site-ca", "orchard"), (("commonName", "barn"),))
    found = certificate(units=("device",), sans=[("DNS", "pi-1.barn.meadow")]) | {"issuer": twice}
    assert peer(found) is None
