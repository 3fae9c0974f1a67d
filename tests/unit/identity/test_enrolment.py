"""Both halves together: the controller's decisions against a device in this process."""

import datetime as dt

import pytest

from hedgerow.errors import RefusedError
from hedgerow.identity import certificates, enrol, issued
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.enrolment import enrol as enrol_device
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
