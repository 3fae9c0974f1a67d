"""Both halves together: the controller's decisions against a device in this process."""

import datetime as dt
import os
import socket
import subprocess

import pytest
from tests.unit.identity.test_keys import STAND_IN

from hedgerow.errors import RefusedError
from hedgerow.identity import certificates, enrol, issued
from hedgerow.identity.authority import build, making, opening
from hedgerow.identity.authority.admission import Admission
from hedgerow.identity.authority.issuing import IssuingCA
from hedgerow.identity.authority.root import RootCA
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.enrolment import Wishes
from hedgerow.identity.enrolment import enrol as enrol_device
from hedgerow.identity.holders import Holders, anchor_of
from hedgerow.identity.keys_device import otp
from hedgerow.identity.profiles import DeviceNames, Profile


class Device:
    """Runs the device's functions and counts the visits."""

    def __init__(self):
        self.visits = []

    def __call__(self, function, **arguments):
        self.visits.append(function)
        return getattr(enrol, function)(**arguments)


@pytest.fixture
def run(tmp_path, authority, names, now):
    def enrol_(*, ca=authority, profile=Profile.DEVICE, names=names, now=now, **options):
        device = Device()
        outcome = enrol_device(device, ca, profile, names, directory=str(tmp_path / "identity"), now=now, **options)
        return outcome, device.visits

    return enrol_


def test_a_new_device_is_enrolled_and_the_second_run_asks_once_and_changes_nothing(run, now):
    outcome, visits = run()
    assert (outcome.changed, outcome.key_created, outcome.reason) == (True, True, "there is no key yet")
    assert visits == ["status", "request", "install"]
    assert outcome.expires == now + dt.timedelta(days=30)

    outcome, visits = run()
    assert (outcome.changed, visits) == (False, ["status"])


def test_check_mode_predicts_and_touches_nothing(run, authority, tmp_path):
    predicted, visits = run(check=True)
    assert (predicted.changed, predicted.key_created, visits) == (True, True, ["status"])
    assert not (tmp_path / "identity").exists()
    assert list(issued.read(authority.log)) == []
    run()
    assert not run(check=True)[0].changed
    assert run(check=True, force=True)[0].changed


def test_it_renews_in_the_last_third_of_its_life_with_the_same_key(run, tmp_path, now):
    run()
    key = (tmp_path / "identity" / "device.key").read_bytes()
    assert not run(now=now + dt.timedelta(days=19))[0].changed
    outcome, _ = run(now=now + dt.timedelta(days=21))
    assert "third" in outcome.reason
    assert (tmp_path / "identity" / "device.key").read_bytes() == key
    assert "expired" in run(now=now + dt.timedelta(days=90))[0].reason


def test_force_renews_and_new_key_replaces_the_key(run, tmp_path):
    run()
    key = (tmp_path / "identity" / "device.key").read_bytes()
    outcome, _ = run(force=True)
    assert (outcome.files, outcome.key_created) == (["device.crt"], False)
    outcome, _ = run(new_key=True)
    assert (outcome.files, outcome.key_created) == (["device.key", "device.crt"], True)
    assert (tmp_path / "identity" / "device.key").read_bytes() != key


@pytest.mark.parametrize("change", [{"host": "pi-orchard-9"}, {"site": "field"}])
def test_another_name_or_site_is_a_reason(run, names, change):
    run()
    parts = {key: getattr(names, key) for key in ("fleet", "site", "host", "serial")}
    outcome, _ = run(names=DeviceNames(**parts | change))
    assert outcome.reason == "the names or the profile changed"


def test_another_profile_is_a_reason(run):
    run()
    assert run(profile=Profile.GATEWAY)[0].reason == "the names or the profile changed"


def test_another_ca_replaces_certificate_and_ca(run, tmp_path):
    run()
    other, _ = FleetCA.init(tmp_path / "other", "meadow")
    outcome, _ = run(ca=other)
    assert outcome.reason == "another authority issued the certificate"
    assert outcome.files == ["device.crt", "ca.crt"]
    assert not run(ca=other)[0].changed


def test_a_missing_ca_file_is_placed_without_a_new_certificate(run, authority, tmp_path):
    run()
    (tmp_path / "identity" / "ca.crt").unlink()
    assert run(check=True)[0].files == ["ca.crt"]
    outcome, visits = run()
    assert (outcome.reason, outcome.files, visits) == (None, ["ca.crt"], ["status", "install"])
    assert (tmp_path / "identity" / "ca.crt").read_text() == certificates.pem(authority.certificate)
    assert len(list(issued.read(authority.log))) == 1


@pytest.mark.parametrize(
    "damage", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"]
)
def test_a_damaged_certificate_is_replaced(run, tmp_path, damage):
    run()
    (tmp_path / "identity" / "device.crt").write_text(damage)
    outcome, _ = run()
    assert (outcome.reason, outcome.files) == ("there is no certificate yet", ["device.crt"])


def test_a_key_that_others_could_read_is_mended_and_said(run, tmp_path):
    run()
    (tmp_path / "identity").chmod(0o755)
    (tmp_path / "identity" / "device.key").chmod(0o604)
    predicted, _ = run(check=True)
    outcome, visits = run()
    assert predicted.repaired == outcome.repaired
    assert len(outcome.repaired) == 2
    assert visits == ["status", "repair"]
    assert "rotate_identity.yml --limit pi-orchard-1" in outcome.warnings[0]
    again, _ = run()
    assert (again.changed, again.warnings) == (False, [])


def test_a_device_with_another_serial_gets_no_certificate(run, tmp_path):
    class Impostor(Device):
        def __call__(self, function, **arguments):
            return super().__call__(
                function, **arguments | ({"serial": "10000000ffffffff"} if function == "request" else {})
            )

    ca, _ = FleetCA.init(tmp_path / "x", "meadow")
    names = DeviceNames("meadow", "orchard", "pi-orchard-1", "10000000a1b2c3d4")
    with pytest.raises(RefusedError, match="10000000ffffffff"):
        enrol_device(
            Impostor(), ca, Profile.DEVICE, names, directory=str(tmp_path / "identity"), now=dt.datetime.now(dt.UTC)
        )
    assert not (tmp_path / "identity" / "device.crt").exists()


# -- one board, one key ----------------------------------------------------

OTHER = DeviceNames("meadow", "orchard", "pi-orchard-2", "10000000a1b2c3d5")


@pytest.fixture
def fleet(tmp_path, authority, now):
    """Visits boards in folders of their own, with one history for all; returns (outcome, visits)."""
    holders = Holders(authority.folder)

    def visit(names, card, *, after=0, strict=False, **options):
        device = Device()
        outcome = enrol_device(
            device,
            authority,
            Profile.DEVICE,
            names,
            directory=str(tmp_path / card),
            now=now + dt.timedelta(days=after),
            holders=holders,
            wishes=Wishes(strict=strict),
            **options,
        )
        return outcome, device.visits

    visit.holders = holders
    return visit


def test_a_visit_that_finds_what_it_left_writes_nothing(fleet, names):
    fleet(names, "card")
    before = fleet.holders.lines()
    assert [type(line).__name__ for line in before] == ["Seen"]
    outcome, visits = fleet(names, "card", after=1)
    assert (outcome.changed, visits) == (False, ["status"])
    assert fleet.holders.lines() == before


def test_a_fleet_that_was_enrolled_before_is_taken_down_once(fleet, run, names, tmp_path):
    run()
    fleet(names, "identity")
    fleet(names, "identity")
    assert len(fleet.holders.lines()) == 1


def test_a_request_of_another_visit_is_refused(tmp_path, authority, names, now):
    class Replay(Device):
        """Answers with the request that it made the first time."""

        kept = None

        def __call__(self, function, **arguments):
            answer = super().__call__(function, **arguments)
            if function == "request":
                Replay.kept = Replay.kept or answer
                return Replay.kept
            return answer

    for attempt in range(2):
        arguments = (Replay(), authority, Profile.DEVICE, names)
        if attempt == 0:
            enrol_device(*arguments, directory=str(tmp_path / "identity"), now=now)
        else:
            with pytest.raises(RefusedError, match="was not made for this visit"):
                enrol_device(*arguments, directory=str(tmp_path / "identity"), now=now, force=True)
    assert len(list(issued.read(authority.log))) == 1


def test_two_boards_with_one_serial_are_found_out_and_refused(fleet, names):
    fleet(names, "first")
    fleet(names, "second", after=1)
    with pytest.raises(RefusedError, match="two boards with serial") as caught:
        fleet(names, "first", after=2, force=True)
    assert f"hedgerow ca settle {names.serial}" in caught.value.next_step
    assert [type(line).__name__ for line in fleet.holders.lines()] == ["Seen", "Seen", "Conflict"]
    # Until somebody has looked, whatever is asked for.
    with pytest.raises(RefusedError):
        fleet(names, "first", after=3, new_key=True)


def test_check_mode_says_it_and_writes_nothing(fleet, names):
    fleet(names, "first")
    fleet(names, "second", after=1)
    before = fleet.holders.lines()
    with pytest.raises(RefusedError):
        fleet(names, "first", after=2, check=True)
    assert fleet.holders.lines() == before


def test_what_was_settled_begins_anew(fleet, names, now):
    fleet(names, "first")
    fleet(names, "second", after=1)
    fleet.holders.settle(names.host, names.serial, reason="the second is a lab board", by="jane", now=now)
    fleet(names, "first", after=2, force=True)
    fleet(names, "second", after=3, force=True)
    with pytest.raises(RefusedError):
        fleet(names, "first", after=4, force=True)


def test_strict_refuses_another_key_while_the_last_one_lives(fleet, names, tmp_path):
    fleet(names, "first")
    enrol.request(str(tmp_path / "second"), names.serial)
    with pytest.raises(RefusedError, match="another key than on"):
        fleet(names, "second", after=1, strict=True)
    assert fleet(names, "second", after=31, strict=True)[0].changed


def test_strict_lets_a_key_pass_that_a_gateway_certified(fleet, names, authority, tmp_path, now):
    """The device renewed with another key at its gateway, and no visit saw it."""
    fleet(names, "card", strict=True)
    folder = str(tmp_path / "card")
    request = enrol.request(folder, names.serial, new_key=True)["csr"]
    fresh = authority.sign_csr(request, Profile.DEVICE, names, now=now)
    enrol.install(folder, fresh, authority.anchors, layout="generations")
    assert not fleet(names, "card", after=1, strict=True)[0].changed


def test_strict_lets_a_key_pass_that_was_asked_for(fleet, names):
    fleet(names, "card", strict=True)
    assert fleet(names, "card", after=1, strict=True, new_key=True)[0].key_created
    assert not fleet(names, "card", after=2, strict=True)[0].changed


def test_a_copied_card_gets_a_key_of_its_own(fleet, names, tmp_path):
    """One image for two boards, made after the first was enrolled: both would open each other's lines."""
    fleet(names, "card")
    subprocess.run(["cp", "-a", tmp_path / "card", tmp_path / "copy"], check=True)
    outcome, _ = fleet(OTHER, "copy", after=1)
    assert outcome.key_created
    assert "its key is the one of pi-orchard-1" in outcome.warnings[0]
    keys = {(tmp_path / card / "device.key").read_bytes() for card in ("card", "copy")}
    assert len(keys) == 2
    assert not fleet(OTHER, "copy", after=2)[0].changed
    assert not fleet(names, "card", after=2)[0].changed


def test_a_new_pair_is_tried_with_its_peer_first(fleet, names, tmp_path, authority, now):
    fleet(names, "card")
    before = (tmp_path / "card" / "device.crt").read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    peer = {"host": "127.0.0.1", "port": port, "name": "gw-orchard.orchard.meadow", "path": "/identity/time"}
    with pytest.raises(enrol.EnrolError, match="the old one stays"):
        enrol_device(
            Device(), authority, Profile.DEVICE, names, directory=str(tmp_path / "card"), now=now, force=True,
            wishes=Wishes(peer=peer),
        )  # fmt: skip
    assert (tmp_path / "card" / "device.crt").read_bytes() == before


def test_another_layout_alone_is_a_change_without_a_certificate(fleet, names, authority, tmp_path, now):
    fleet(names, "card")
    arguments = {"directory": str(tmp_path / "card"), "now": now, "wishes": Wishes(layout="generations")}
    outcome = enrol_device(Device(), authority, Profile.DEVICE, names, **arguments)
    assert (outcome.reason, outcome.files) == (None, ["current"])
    assert not enrol_device(Device(), authority, Profile.DEVICE, names, **arguments).files
    back = arguments | {"wishes": Wishes(layout="files")}
    assert not enrol_device(Device(), authority, Profile.DEVICE, names, **back).files
    assert len(list(issued.read(authority.log))) == 1


def test_a_board_that_has_once_vouched_does_so_for_ever(fleet, names, authority, tmp_path, now, monkeypatch):  # noqa: PLR0917
    monkeypatch.setenv("PATH", f"{STAND_IN}:{os.environ['PATH']}")
    monkeypatch.setenv("EMULATED_HARDWARE", str(tmp_path / "board-1"))
    otp.burn(names.serial, otp.confirmation(names.serial))

    def visit(key, days):
        return enrol_device(
            Device(), authority, Profile.DEVICE, names, directory=str(tmp_path / "card"),
            now=now + dt.timedelta(days=days), force=True, holders=fleet.holders, wishes=Wishes(key=key),
        )  # fmt: skip

    visit("otp", 0)
    assert anchor_of(fleet.holders.lines(), names.serial) is not None
    visit("otp", 1)
    with pytest.raises(RefusedError, match="does not vouch"):
        visit("file", 2)
    # The card in another board, which has a key of its own as well.
    monkeypatch.setenv("EMULATED_HARDWARE", str(tmp_path / "board-2"))
    otp.burn(names.serial, otp.confirmation(names.serial))
    with pytest.raises(RefusedError, match="does not vouch"):
        visit("otp", 3)


# -- what a gateway has certified -------------------------------------------


class Site:
    """A fleet with two tiers: the controller's issuer for the site, and the site's CA on its gateway."""

    def __init__(self, folder, secrets):
        self.fleet_dir, home = folder / "two/meadow", folder / "gateway"
        root, _ = RootCA.init(self.fleet_dir, "meadow", secrets)
        making.add(root, "fleet", secrets, by="ada@desk")
        request = making.request(home, "orchard", None)
        made = making.sign_request(root, request, "orchard", by="ada@desk", where="request")
        for name in ("ca.crt", "anchors.crt"):
            (home / name).write_text(certificates.pem(made.certificate))
        self.ca, self.gateway = opening.for_site(self.fleet_dir, "orchard"), IssuingCA.open(home)

    def renew(self, folder, names):
        """What the device has after it renewed at its gateway, with the key that it has."""
        asked = enrol.request(str(folder), names.serial)
        (folder / "device.crt").write_text(self.gateway.sign_csr(asked["csr"], Profile.DEVICE, names))
        return (folder / "device.crt").read_text()

    @property
    def at_gateway(self):
        return opening.at_gateway(self.fleet_dir, "orchard")


@pytest.fixture
def site(tmp_path, secrets):
    return Site(tmp_path, secrets)


def test_what_the_gateway_renewed_is_left_alone(run, site, names, tmp_path, now):
    run(ca=site.ca)
    chain = site.renew(tmp_path / "identity", names)
    outcome, visits = run(ca=site.ca, at_gateway=site.at_gateway)
    assert (outcome.changed, visits) == (False, ["status"])
    assert (tmp_path / "identity/device.crt").read_text() == chain
    assert not run(ca=site.ca, at_gateway=site.at_gateway, wishes=Wishes(strict=True))[0].changed
    # Its age counts as ever.
    later = now + dt.timedelta(days=21)
    assert "third" in run(ca=site.ca, at_gateway=site.at_gateway, now=later)[0].reason


def test_what_a_gateway_s_revoked_ca_certified_is_replaced(run, site, names, tmp_path):
    run(ca=site.ca)
    site.renew(tmp_path / "identity", names)
    key = build.authority_key(site.gateway.certificate)
    Admission(site.fleet_dir / "ca").revoke("authority", key, reason="the gateway was stolen", by="ada@desk")
    assert site.at_gateway is None
    outcome, _ = run(ca=site.ca, at_gateway=site.at_gateway)
    assert outcome.reason == "another authority issued the certificate"


def test_a_site_without_a_ca_on_its_gateway_has_none(fleet_dir, root, secrets):
    assert opening.at_gateway(fleet_dir, "orchard") is None
    making.add(root, "orchard", secrets, by="ada@desk")
    assert opening.at_gateway(fleet_dir, "orchard") is None


def test_a_single_tier_has_none(fleet_dir, authority):
    assert opening.at_gateway(fleet_dir, "orchard") is None
