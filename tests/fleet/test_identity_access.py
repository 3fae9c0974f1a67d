"""Who is let in with which certificate, asked of the servers of a converged fleet as somebody who has it would."""

from __future__ import annotations

import identity_fleet as fleets
import pytest

from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import Profile

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

MACHINES = (Profile.DEVICE, Profile.GATEWAY)
# docs/contracts.md, "Certificate profiles". 400: let in, and told that there is no such model. Nothing writes to a
# gateway: it is brought by publish.yml.
LET_IN = {
    Profile.DEVICE: {"registry": "200"},
    Profile.GATEWAY: dict.fromkeys(("report", "metrics", "exporter", "node", "gateway's node"), "200"),
    Profile.MONITOR: dict.fromkeys(("report", "metrics", "exporter", "node", "gateway's node"), "200"),
    Profile.CLIENT: {"infer": "200", "grpc infer": "OK"},
    Profile.OPERATOR: {
        **dict.fromkeys(("infer", "report", "metrics", "exporter", "node", "gateway's node", "registry"), "200"),
        "unload": "400",
        "grpc infer": "OK",
        "grpc unload": "INVALID_ARGUMENT",
    },
    Profile.PUBLISHER: {},
}
REFUSALS = {"403", "405", "cut", "PERMISSION_DENIED"}


@pytest.mark.parametrize("profile", list(Profile))
def test_a_certificate_opens_what_its_profile_says_and_nothing_else(spinney, tmp_path, profile: Profile) -> None:
    pi, other = spinney.pis[:2]
    host = {Profile.DEVICE: other, Profile.GATEWAY: spinney.gateway}.get(profile)
    holder = spinney.holder(profile) if host is None else spinney.stolen(host, tmp_path / "stolen")
    found = spinney.attempts(holder, pi)
    assert {what: said for what, said in found.items() if said not in REFUSALS} == LET_IN[profile]


def test_a_device_may_on_itself_what_it_may_on_others(spinney, tmp_path) -> None:
    """Nothing: what a device asks of its own server it asks on the loopback."""
    pi = spinney.pis[0]
    found = spinney.attempts(spinney.stolen(pi, tmp_path / "own"), pi)
    assert {what: said for what, said in found.items() if said not in REFUSALS} == LET_IN[Profile.DEVICE]


def test_another_ca_of_the_same_name_opens_nothing(spinney, tmp_path) -> None:
    forged, _ = FleetCA.init(tmp_path, spinney.inventory.fleet)
    files = forged.issue_client(Profile.OPERATOR, "controller-operator")
    found = spinney.attempts(
        fleets.Holder(files.key, files.certificate, spinney.directory / "ca" / "ca.crt"), spinney.pis[0]
    )
    # nginx answers 400 to whom it cannot verify.
    assert set(found.values()) <= {"cut", "400"}, found
