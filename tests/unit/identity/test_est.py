"""An authority elsewhere, over EST: what differs from what was asked for is never handed out."""

from __future__ import annotations

import pytest
import yaml
from tests.unit.identity.est_double import EstDouble

from hedgerow.errors import NetworkError, RefusedError, UsageError
from hedgerow.identity import enrol as device_side
from hedgerow.identity import issued
from hedgerow.identity.authority import opening
from hedgerow.identity.authority.est import EstIssuer
from hedgerow.identity.enrolment import enrol
from hedgerow.identity.issuer import Issuer, Request
from hedgerow.identity.profiles import Profile


@pytest.fixture
def server(tmp_path, names):
    folder = tmp_path / "est"
    folder.mkdir()
    double = EstDouble(folder, {names.serial: names})
    yield double
    double.close()


@pytest.fixture
def settings(server, fleet_dir):
    """``ca/est.yml`` as an operator writes it, and a way to write it otherwise."""
    folder = fleet_dir / "ca"
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes((server.folder / "ca.pem").read_bytes())
    (folder / "est.password").write_text("from a file\n")
    (folder / "est.password").chmod(0o600)

    def write(**changes):
        wanted = {
            "url": server.url,
            "fleet": "meadow",
            "server_ca": str(server.folder / "server.pem"),
            "issuer": "ca.crt",
            "user": "ra",
            "password_file": "est.password",
        }
        (folder / "est.yml").write_text(yaml.safe_dump({**wanted, **changes}))

    write()
    return write


@pytest.fixture
def issuer(settings, fleet_dir) -> Issuer:
    found = opening.for_site(fleet_dir, "orchard")
    assert isinstance(found, EstIssuer)
    return found


def log(issuer):
    return list(issued.read(issuer.folder / issued.FILE))


def test_a_device_is_enrolled_by_an_authority_elsewhere(issuer, names, now, tmp_path, verify):
    folder = tmp_path / "identity"

    def run():
        def call(function, **arguments):
            return getattr(device_side, function)(**arguments)

        return enrol(call, issuer, Profile.DEVICE, names, directory=str(folder), now=now)

    assert run().reason is not None
    chain = (folder / "device.crt").read_text()
    assert verify(issuer.anchors, chain) is None
    assert [(entry.profile, entry.name) for entry in log(issuer)] == [("device", names.serial)]
    assert run().reason is None


@pytest.mark.parametrize(
    "spoil,wrong",
    [
        ("names", "has other alternative names"),
        ("profile", "has the subject"),
        ("key", "certificate for another key"),
        ("life", "longer than was asked"),
        ("signer", "another authority signed"),
        ("usages", "is for other uses"),
        ("refused", "unknown serial"),
        ("garbage", "holds no certificates"),
        ("flood", "longer than 65536 bytes"),
        ("redirect", "status 302"),
    ],
)
def test_what_was_not_asked_for_is_not_handed_out(issuer, server, make_csr, names, spoil, wrong):  # noqa: PLR0917 - fixtures
    server.spoil = spoil
    with pytest.raises(RefusedError, match=wrong):
        issuer.sign_csr(make_csr()[0], Profile.DEVICE, names)
    assert log(issuer) == []


@pytest.mark.parametrize("spoil,told", [("busy", "try again in 90 s"), ("down", "status 503")])
def test_a_server_that_is_not_ready_is_worth_another_try(issuer, server, make_csr, names, spoil, told):  # noqa: PLR0917 - fixtures
    server.spoil = spoil
    with pytest.raises(NetworkError) as caught:
        issuer.sign_csr(make_csr()[0], Profile.DEVICE, names)
    assert told in str(caught.value)


def test_who_was_revoked_is_refused_before_anything_is_asked(issuer, server, make_csr, names):
    text = make_csr()[0]
    issuer.sign_csr(text, Profile.DEVICE, names)
    issuer.revoke("board", names.serial, reason="stolen", by="ada@desk")
    with pytest.raises(RefusedError, match="stolen"):
        issuer.sign_csr(make_csr()[0], Profile.DEVICE, names)
    issuer.readmit("board", names.serial, reason="back", by="ada@desk")
    with pytest.raises(RefusedError, match="key that was revoked"):
        issuer.sign_csr(text, Profile.DEVICE, names)
    with pytest.raises(RefusedError, match="1 to 90"):
        issuer.sign_csr(make_csr()[0], Profile.DEVICE, names, days=91)
    assert len(server.seen) == 1


def test_each_of_a_wave_has_its_answer(issuer, server, make_csr, names):
    answers = issuer.sign_many([Request(text, Profile.DEVICE, names) for text in (make_csr()[0], "hello")])
    assert [type(answer) for answer in answers] == [str, UsageError]


def test_the_server_is_known_by_its_own_ca_alone(settings, server, fleet_dir, make_csr, names):
    settings(server_ca="ca.crt")
    with pytest.raises(NetworkError, match="certificate verify failed"):
        opening.for_site(fleet_dir, "orchard").sign_csr(make_csr()[0], Profile.DEVICE, names)


def test_a_wrong_password_is_wrong_use(settings, server, fleet_dir, make_csr, names):
    settings(user="somebody")
    with pytest.raises(UsageError, match="does not take us"):
        opening.for_site(fleet_dir, "orchard").sign_csr(make_csr()[0], Profile.DEVICE, names)


@pytest.mark.parametrize(
    "changes,told",
    [
        ({"url": "http://localhost/.well-known/est"}, "which authority to ask"),
        ({"issuer": "gone.crt"}, "is not there"),
        ({"server_ca": "gone.crt"}, "cannot be used"),
        ({"password": "in plain sight"}, "which authority to ask"),
    ],
)
def test_settings_that_do_not_hold_are_told(settings, fleet_dir, changes, told):
    settings(**changes)
    with pytest.raises(UsageError, match=told):
        opening.for_site(fleet_dir, "orchard")


def test_a_password_that_others_may_read_is_refused(settings, fleet_dir):
    (fleet_dir / "ca" / "est.password").chmod(0o644)
    with pytest.raises(UsageError, match="everybody on this machine"):
        opening.for_site(fleet_dir, "orchard")
