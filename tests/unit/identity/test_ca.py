import datetime as dt
import json
import multiprocessing
import stat
import subprocess

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from hedgerow.errors import RefusedError, UsageError
from hedgerow.identity import certificates, issued, keyfile
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import CLIENT_PROFILES, DeviceNames, Profile


def sans(certificate):
    return [name.value for name in certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value]


def usages(certificate):
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


# -- the CA itself ---------------------------------------------------------


def test_init_makes_a_private_key_and_is_idempotent(fleet_dir, authority):
    key = fleet_dir / "ca" / "ca.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    again, changed = FleetCA.init(fleet_dir, "meadow")
    assert not changed
    assert again.certificate == authority.certificate


def test_a_key_without_a_certificate_is_an_interrupted_init_and_starts_over(fleet_dir, authority):
    (fleet_dir / "ca" / "ca.crt").unlink()
    _, changed = FleetCA.init(fleet_dir, "meadow")
    assert changed


def test_a_ca_that_has_issued_is_never_replaced(fleet_dir, authority):
    authority.issue_client(Profile.OPERATOR, "demo")
    (fleet_dir / "ca" / "ca.crt").unlink()
    with pytest.raises(RefusedError, match="backup"):
        FleetCA.init(fleet_dir, "meadow")


def test_no_ca_says_how_to_make_one(fleet_dir):
    with pytest.raises(UsageError, match="hedgerow ca init"):
        FleetCA.open(fleet_dir)


def test_a_key_that_others_can_read_is_refused(fleet_dir, authority):
    (fleet_dir / "ca" / "ca.key").chmod(0o640)
    with pytest.raises(RefusedError, match="chmod 600"):
        FleetCA.open(fleet_dir)


def test_a_key_of_another_ca_is_refused(tmp_path, fleet_dir, authority):
    FleetCA.init(tmp_path / "other", "meadow")
    (fleet_dir / "ca" / "ca.key").write_bytes((tmp_path / "other" / "ca" / "ca.key").read_bytes())
    with pytest.raises(RefusedError, match="do not belong together"):
        FleetCA.open(fleet_dir)


def test_the_key_is_encrypted_at_rest_where_a_passphrase_is_named(tmp_path, fleet_dir, monkeypatch):
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse\n")
    monkeypatch.setenv("HEDGEROW_CA_PASSPHRASE_FILE", str(secret))
    FleetCA.init(fleet_dir, "meadow")
    assert "ENCRYPTED" in (fleet_dir / "ca" / "ca.key").read_text()
    FleetCA.open(fleet_dir)

    secret.write_text("wrong\n")
    with pytest.raises(UsageError, match="wrong passphrase"):
        FleetCA.open(fleet_dir)
    secret.write_text("\n")
    with pytest.raises(UsageError, match="empty"):
        FleetCA.open(fleet_dir)
    monkeypatch.setenv("HEDGEROW_CA_PASSPHRASE_FILE", str(tmp_path / "gone"))
    with pytest.raises(UsageError, match="cannot be read"):
        FleetCA.open(fleet_dir)
    monkeypatch.delenv("HEDGEROW_CA_PASSPHRASE_FILE")
    with pytest.raises(UsageError, match="no passphrase was given"):
        FleetCA.open(fleet_dir)


# -- requests of devices ---------------------------------------------------


@pytest.mark.parametrize("profile", [Profile.DEVICE, Profile.GATEWAY])
def test_a_device_gets_names_that_the_ca_computes(authority, make_csr, names, profile, now):
    text, _ = make_csr()
    certificate = x509.load_pem_x509_certificate(authority.sign_csr(text, profile, names, now=now).encode())
    assert certificate.subject.rfc4514_string() == f"CN=10000000a1b2c3d4,OU={profile.value},O=meadow"
    assert sans(certificate) == [
        "pi-orchard-1.orchard.meadow",
        "hedgerow://meadow/device/10000000a1b2c3d4",
        f"hedgerow://meadow/profile/{profile.value}",
    ]
    assert usages(certificate) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert certificate.not_valid_after_utc == now + dt.timedelta(days=30)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_what_a_request_asks_for_is_never_copied(authority, make_csr, names):
    text, _ = make_csr(
        "/O=evil/OU=operator/CN=10000000a1b2c3d4",
        extra=("-addext", "subjectAltName=DNS:gw-orchard.orchard.meadow", "-addext", "basicConstraints=CA:TRUE"),
    )
    certificate = x509.load_pem_x509_certificate(authority.sign_csr(text, Profile.DEVICE, names).encode())
    assert certificate.subject.rfc4514_string() == "CN=10000000a1b2c3d4,OU=device,O=meadow"
    assert "gw-orchard.orchard.meadow" not in sans(certificate)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("subject", ["/CN=10000000ffffffff", "/O=x", "/CN=10000000a1b2c3d4/CN=10000000a1b2c3d4"])
def test_a_request_for_another_serial_is_refused(authority, make_csr, names, subject):
    text, _ = make_csr(subject)
    with pytest.raises(RefusedError, match="10000000a1b2c3d4"):
        authority.sign_csr(text, Profile.DEVICE, names)
    assert list(issued.read(authority.log)) == []


def test_a_request_not_signed_by_its_own_key_is_refused(authority, make_csr, names):
    text, _ = make_csr()
    body = bytearray(x509.load_pem_x509_csr(text.encode()).public_bytes(_der()))
    body[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(body)).public_bytes(_pem()).decode()
    with pytest.raises(RefusedError, match="not signed by the key"):
        authority.sign_csr(forged, Profile.DEVICE, names)


def test_another_curve_is_refused(authority, make_csr, names):
    text, _ = make_csr(curve="P-384")
    with pytest.raises(RefusedError, match="P-256"):
        authority.sign_csr(text, Profile.DEVICE, names)


def test_another_fleet_is_refused(authority, make_csr):
    other = DeviceNames(fleet="moor", site="orchard", host="pi-1", serial="10000000a1b2c3d4")
    with pytest.raises(RefusedError, match="fleet moor"):
        authority.sign_csr(make_csr()[0], Profile.DEVICE, other)


def test_text_that_is_no_request_is_refused(authority, names):
    with pytest.raises(UsageError, match="no certificate request"):
        authority.sign_csr("hello", Profile.DEVICE, names)


@pytest.mark.parametrize("profile", CLIENT_PROFILES)
def test_a_device_cannot_get_a_persons_profile(authority, make_csr, names, profile):
    with pytest.raises(RefusedError, match="not for devices"):
        authority.sign_csr(make_csr()[0], profile, names)


@pytest.mark.parametrize("days", [0, -1, 91, 3650])
def test_a_life_beyond_the_limit_is_refused(authority, make_csr, names, days):
    with pytest.raises(RefusedError, match="1 to 90"):
        authority.sign_csr(make_csr()[0], Profile.DEVICE, names, days=days)


def test_nothing_outlives_the_ca(authority, make_csr, names):
    end = authority.certificate.not_valid_after_utc
    with pytest.raises(RefusedError, match="before the certificate would"):
        authority.sign_csr(make_csr()[0], Profile.DEVICE, names, now=end - dt.timedelta(days=5))


def _der():
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.DER


def _pem():
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.PEM


# -- clients ---------------------------------------------------------------


def test_a_client_is_issued_once_and_renewed_in_its_last_third(authority, now):
    first = authority.issue_client(Profile.OPERATOR, "demo", now=now)
    assert first.reason == "there is no key yet"
    assert stat.S_IMODE(first.key.stat().st_mode) == 0o600
    certificate = x509.load_pem_x509_certificate(first.certificate.read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=demo,OU=operator,O=meadow"
    assert usages(certificate) == {ExtendedKeyUsageOID.CLIENT_AUTH}
    assert first.expires == now + dt.timedelta(days=7)

    key = first.key.read_bytes()
    assert not authority.issue_client(Profile.OPERATOR, "demo", now=now + dt.timedelta(days=4)).changed
    assert first.key.read_bytes() == key
    renewed = authority.issue_client(Profile.OPERATOR, "demo", now=now + dt.timedelta(days=5))
    assert "third" in renewed.reason
    assert first.key.read_bytes() != key


def test_a_client_whose_key_is_not_its_certificates_is_issued_again(authority):
    files = authority.issue_client(Profile.CLIENT, "app")
    other = authority.issue_client(Profile.CLIENT, "other")
    files.key.write_bytes(other.key.read_bytes())
    assert authority.issue_client(Profile.CLIENT, "app").reason == "the certificate belongs to another key"


def test_one_name_has_one_profile(authority):
    authority.issue_client(Profile.CLIENT, "demo")
    with pytest.raises(RefusedError, match="already is a client of profile client"):
        authority.issue_client(Profile.OPERATOR, "demo")


@pytest.mark.parametrize("profile", [Profile.DEVICE, Profile.GATEWAY])
def test_keys_of_machines_are_never_made_here(authority, profile):
    with pytest.raises(RefusedError, match="made on them"):
        authority.issue_client(profile, "demo")


# -- what verifiers think of it --------------------------------------------


def verify(tmp_path, ca, certificate):
    (tmp_path / "ca.pem").write_bytes(ca)
    (tmp_path / "leaf.pem").write_bytes(certificate)
    return subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", tmp_path / "ca.pem", tmp_path / "leaf.pem"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_openssl_accepts_every_profile_in_strict_mode(tmp_path, fleet_dir, authority, make_csr, names):
    leaves = [authority.issue_client(profile, profile.value).certificate.read_bytes() for profile in CLIENT_PROFILES]
    leaves += [authority.sign_csr(make_csr()[0], p, names).encode() for p in (Profile.DEVICE, Profile.GATEWAY)]
    for leaf in leaves:
        done = verify(tmp_path, (fleet_dir / "ca" / "ca.crt").read_bytes(), leaf)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "outside", [x509.DNSName("pi.orchard.elsewhere"), x509.UniformResourceIdentifier("hedgerow://elsewhere/device/1")]
)
def test_a_stolen_ca_key_can_name_nothing_outside_the_fleet(tmp_path, authority, make_csr, monkeypatch, outside):
    monkeypatch.setattr("hedgerow.identity.certificates.device_sans", lambda *_: (outside,))
    names = DeviceNames(fleet="meadow", site="orchard", host="pi-1", serial="10000000a1b2c3d4")
    leaf = authority.sign_csr(make_csr()[0], Profile.DEVICE, names)
    done = verify(tmp_path, (authority.folder / "ca.crt").read_bytes(), leaf.encode())
    assert "permitted subtree violation" in done.stderr


# -- the log ---------------------------------------------------------------


def test_every_certificate_is_in_the_log(authority, make_csr, names, now):
    text = authority.sign_csr(make_csr()[0], Profile.DEVICE, names, reason="why not", now=now)
    authority.issue_client(Profile.OPERATOR, "demo")
    entries = list(issued.read(authority.log))
    assert [(entry.profile, entry.name) for entry in entries] == [("device", names.serial), ("operator", "demo")]
    certificate = x509.load_pem_x509_certificate(text.encode())
    assert entries[0].serial_number == f"{certificate.serial_number:x}"
    assert entries[0].dns == ["pi-orchard-1.orchard.meadow"]
    assert entries[0].reason == "why not"
    assert entries[0].not_after == (now + dt.timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_no_certificate_leaves_the_ca_unlogged(authority, make_csr, names, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(issued, "append", full)
    with pytest.raises(OSError, match="No space"):
        authority.sign_csr(make_csr()[0], Profile.DEVICE, names)
    with pytest.raises(OSError, match="No space"):
        authority.issue_client(Profile.OPERATOR, "demo")
    assert list((authority.folder / "clients").iterdir()) == []


def test_a_torn_line_costs_that_line_only(authority):
    authority.issue_client(Profile.OPERATOR, "one")
    whole = authority.log.read_text()
    authority.log.write_text(whole + whole[: len(whole) // 2])
    authority.issue_client(Profile.OPERATOR, "two")
    assert [entry.name for entry in issued.read(authority.log)] == ["one", "two"]


def _issue(arguments):
    fleet_dir, number = arguments
    FleetCA.open(fleet_dir).issue_client(Profile.CLIENT, f"app-{number}")


def test_parallel_workers_share_one_log(fleet_dir, authority):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(_issue, [(fleet_dir, number) for number in range(12)])
    lines = authority.log.read_text().splitlines()
    assert len(lines) == 12
    assert len({json.loads(line)["serial_number"] for line in lines}) == 12


def test_a_key_that_systemd_lent_by_an_access_list_is_taken(tmp_path, monkeypatch):
    """Its mask shows as the group's rights; anywhere else they are others' rights."""
    lent = tmp_path / "credentials"
    lent.mkdir()
    path = lent / "ca.key"
    path.write_bytes(keyfile.encode(certificates.new_key(), None))
    path.chmod(0o440)
    with pytest.raises(RefusedError, match="others can read"):
        keyfile.load(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(lent))
    assert keyfile.load(path).key_size == 256
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(RefusedError, match="others can read"):
        keyfile.load(path)
