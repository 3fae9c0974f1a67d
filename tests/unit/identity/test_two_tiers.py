"""Root and issuing CAs, judged by the program that servers verify with: ``openssl verify``."""

from __future__ import annotations

import datetime as dt
import stat

import pytest
from cryptography import x509

from hedgerow.errors import RefusedError, UsageError
from hedgerow.identity import issued
from hedgerow.identity.authority import build, keys, making, opening
from hedgerow.identity.authority.issuing import IssuingCA
from hedgerow.identity.authority.root import KeyPlace, RootCA
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.issuer import Issuer, Request
from hedgerow.identity.profiles import DEVICE_PROFILES, DeviceNames, Profile
from hedgerow.passphrases import Passphrases

BY = "ada@desk"


def add(root, secrets, name, **options):
    return making.add(root, name, secrets, by=BY, **options)


def leaf_of(chain):
    return x509.load_pem_x509_certificate(chain.encode())


# -- making them ------------------------------------------------------------


def test_a_root_is_encrypted_and_made_once(fleet_dir, root, secrets):
    key = fleet_dir / "ca" / "ca.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert b"ENCRYPTED" in key.read_bytes()
    assert RootCA.init(fleet_dir, "meadow", secrets) == (None, False)
    assert RootCA.open(fleet_dir, secrets).certificate == root.certificate


def test_a_short_passphrase_is_refused(fleet_dir, tmp_path):
    path = tmp_path / "short"
    path.write_text("eleven char")
    path.chmod(0o600)
    with pytest.raises(UsageError, match="12 characters"):
        RootCA.init(fleet_dir, "meadow", Passphrases({None: path}))
    assert not (fleet_dir / "ca" / "ca.crt").exists()


def test_a_single_tier_is_told_the_way_and_left_alone(fleet_dir, authority, secrets):
    with pytest.raises(RefusedError, match="rotate begin --two-tier"):
        RootCA.init(fleet_dir, "meadow", secrets)
    with pytest.raises(RefusedError, match="single tier"):
        RootCA.open(fleet_dir, secrets)


def test_a_root_signs_no_machine(fleet_dir, root):
    with pytest.raises(RefusedError, match="two tiers"):
        FleetCA.open(fleet_dir)


def test_an_issuing_ca_is_made_once_and_replaced_when_asked(root, secrets, now):
    first = add(root, secrets, "orchard", now=now)
    assert first.changed
    assert b"ENCRYPTED" in (first.home / keys.KEY).read_bytes()
    again = add(root, secrets, "orchard", now=now)
    assert (again.changed, again.home) == (False, first.home)
    other = add(root, secrets, "orchard", replace=True, now=now)
    assert other.home != first.home
    assert making.in_use(root.home) == {"orchard": other.home}
    assert making.all_homes(root.home) == sorted([first.home, other.home])


def test_an_interrupted_add_goes_on_with_the_key_it_made(root, secrets, monkeypatch):
    monkeypatch.setattr(RootCA, "sign_issuing", _fail)
    with pytest.raises(OSError, match="power"):
        add(root, secrets, "orchard")
    staged = root.home / "issuing" / ".new-orchard" / keys.KEY
    made = keys.make(staged.parent, "orchard", secrets)
    monkeypatch.undo()
    done = add(root, secrets, "orchard")
    assert build.authority_key(done.certificate) == build.key_id(made.public_key())
    assert not staged.parent.exists()


def _fail(*_args, **_options):
    raise OSError(5, "power cut")


def test_an_issuing_ca_does_not_outlive_its_root(root, secrets):
    with pytest.raises(RefusedError, match="root ends"):
        add(root, secrets, "orchard", days=9000)


# -- what it signs ----------------------------------------------------------


def test_every_profile_chains_through_the_fleets_ca(*, verify, fleet_dir, root, secrets, make_csr, names):
    add(root, secrets, "fleet")
    issuer: Issuer = opening.for_site(fleet_dir, "orchard")
    clients = opening.for_clients(fleet_dir)
    assert isinstance(issuer, IssuingCA)
    chains = [issuer.sign_csr(make_csr()[0], profile, names) for profile in sorted(DEVICE_PROFILES)]
    chains += [
        clients.issue_client(profile, profile.value).certificate.read_text()
        for profile in Profile
        if profile not in DEVICE_PROFILES
    ]
    for chain in chains:
        assert verify(issuer.anchors, chain) is None
        assert leaf_of(chain).subject.rfc4514_string().endswith("O=meadow")
    assert len(list(issued.read(fleet_dir / "ca" / issued.FILE))) == len(chains) + 1


def test_a_sites_ca_certifies_its_own_machines_alone(fleet_dir, root, secrets, make_csr, names):
    add(root, secrets, "orchard")
    issuer = opening.for_site(fleet_dir, "orchard")
    assert issuer.sign_csr(make_csr()[0], Profile.DEVICE, names)
    elsewhere = DeviceNames(fleet="meadow", site="barn", host="pi-barn-1", serial=names.serial)
    with pytest.raises(RefusedError, match="site orchard certifies machines of its own site alone"):
        issuer.sign_csr(make_csr()[0], Profile.DEVICE, elsewhere)
    with pytest.raises(RefusedError, match="not a operator"):
        issuer.issue_client(Profile.OPERATOR, "mallory")
    with pytest.raises(UsageError, match="certifies barn"):
        opening.for_site(fleet_dir, "barn")


@pytest.mark.parametrize(
    "outside",
    [
        x509.DNSName("pi-barn-1.barn.meadow"),
        x509.DNSName("pi.orchard.elsewhere"),
        x509.UniformResourceIdentifier("hedgerow://elsewhere/device/1"),
    ],
)
def test_a_stolen_site_key_names_nothing_outside_its_site(
    *, verify, fleet_dir, root, secrets, make_csr, names, monkeypatch, outside
):
    add(root, secrets, "orchard")
    issuer = opening.for_site(fleet_dir, "orchard")
    monkeypatch.setattr("hedgerow.identity.certificates.device_sans", lambda *_: (outside,))
    chain = issuer.sign_csr(make_csr()[0], Profile.DEVICE, names)
    assert "permitted subtree violation" in verify(issuer.anchors, chain)


def test_a_stolen_issuing_key_makes_no_ca_below_it(*, verify, fleet_dir, root, secrets, make_csr, names, now):
    home = add(root, secrets, "orchard").home
    stolen = IssuingCA.open(home, state=fleet_dir / "ca", anchors=fleet_dir / "ca" / "ca.crt", passphrases=secrets)
    below_key = build.certificates.new_key()
    below = build.build_issuing(
        stolen.certificate, stolen.key, below_key.public_key(), site="orchard", now=now, days=60
    )
    forged = IssuingCA(home, below, below_key, state=fleet_dir / "ca", anchors=fleet_dir / "ca" / "ca.crt")
    chain = forged.sign_csr(make_csr()[0], Profile.DEVICE, names) + build.certificates.pem(stolen.certificate)
    assert "path length constraint exceeded" in verify(forged.anchors, chain)


# -- a wave at once ---------------------------------------------------------


def test_a_wave_is_one_write_and_each_has_its_answer(*, fleet_dir, root, secrets, make_csr, names, monkeypatch):
    add(root, secrets, "fleet")
    issuer = opening.for_site(fleet_dir, "orchard")
    writes = []
    append = issued.append
    monkeypatch.setattr(issued, "append", lambda path, entries: (writes.append(len(entries)), append(path, entries)))
    wrong = make_csr("/CN=10000000ffffffff")[0]
    answers = issuer.sign_many(
        [Request(text, Profile.DEVICE, names) for text in (make_csr()[0], wrong, "hello", make_csr()[0])]
    )
    assert [type(answer) for answer in answers] == [str, RefusedError, UsageError, str]
    assert writes == [2]
    serials = [f"{leaf_of(answer).serial_number:x}" for answer in answers if isinstance(answer, str)]
    assert [entry.serial_number for entry in issued.read(issuer.log)][1:] == serials


# -- keys elsewhere ---------------------------------------------------------


def test_a_gateways_request_is_certified_for_its_site(
    *, tmp_path, verify, fleet_dir, root, secrets, make_csr, names, now
):
    gateway = tmp_path / "gateway"
    text = making.request(gateway, "orchard", None)
    made = making.sign_request(root, text, "orchard", by=BY, where="request", now=now)
    assert made.changed
    assert not keys.is_here(made.home)
    with pytest.raises(UsageError, match="renew at the site's gateway"):
        opening.for_site(fleet_dir, "orchard")

    (gateway / "ca.crt").write_text((made.home / "ca.crt").read_text())
    (gateway / "anchors.crt").write_text((fleet_dir / "ca" / "ca.crt").read_text())
    (tmp_path / "state").mkdir()
    issuer = IssuingCA.open(gateway, state=tmp_path / "state")
    chain = issuer.sign_csr(make_csr()[0], Profile.DEVICE, names)
    assert verify(issuer.anchors, chain) is None
    assert [entry.name for entry in issued.read(tmp_path / "state" / issued.FILE)] == [names.serial]

    assert not making.sign_request(root, text, "orchard", by=BY, where="request", now=now).changed
    later = now + dt.timedelta(days=900)
    renewed = making.sign_request(root, text, "orchard", by=BY, where="request", now=later)
    assert "third of its life" in renewed.reason
    assert renewed.home == made.home


def test_one_key_is_one_ca(tmp_path, root, secrets):
    text = making.request(tmp_path / "gateway", "orchard", None)
    making.sign_request(root, text, "orchard", by=BY, where="request")
    with pytest.raises(RefusedError, match="already that of another CA"):
        making.sign_request(root, text, "barn", by=BY, where="request")


def test_a_root_on_a_medium_signs_while_it_is_there(tmp_path, fleet_dir, secrets):
    medium = tmp_path / "medium"
    place = KeyPlace(f"pem:{medium}/meadow.key")
    with pytest.raises(UsageError, match="mount the medium"):
        RootCA.init(fleet_dir, "meadow", secrets, place=place)
    medium.mkdir()
    root, _ = RootCA.init(fleet_dir, "meadow", secrets, place=place)
    assert add(root, secrets, "fleet").changed
    assert not (fleet_dir / "ca" / "ca.key").exists()
    medium.rename(tmp_path / "drawer")
    with pytest.raises(UsageError, match="medium in and mount"):
        RootCA.open(fleet_dir, secrets)
    assert opening.for_clients(fleet_dir).issue_client(Profile.OPERATOR, "ada").changed


def test_another_medium_is_noticed(tmp_path, fleet_dir, secrets, root):
    other, _ = RootCA.init(tmp_path / "other", "meadow", secrets)
    (fleet_dir / "ca" / "ca.key").write_bytes((other.home / "ca.key").read_bytes())
    with pytest.raises(RefusedError, match="do not belong together"):
        RootCA.open(fleet_dir, secrets)


def test_a_wrong_passphrase_says_so(tmp_path, fleet_dir, root):
    wrong = tmp_path / "wrong"
    wrong.write_text("not the right one\n")
    wrong.chmod(0o600)
    with pytest.raises(UsageError, match="wrong passphrase"):
        RootCA.open(fleet_dir, Passphrases({"root": wrong}))
    with pytest.raises(UsageError, match="needs its passphrase"):
        RootCA.open(fleet_dir, Passphrases())


def test_a_revoked_issuing_ca_signs_no_more_and_its_key_is_never_certified_again(tmp_path, fleet_dir, root, secrets):
    text = making.request(tmp_path / "gateway", "orchard", None)
    made = making.sign_request(root, text, "orchard", by=BY, where="request")
    home = add(root, secrets, "fleet").home
    admission = opening.Admission(fleet_dir / "ca")
    for certificate in (made.certificate, IssuingCA.open(home, passphrases=secrets).certificate):
        line, _ = admission.revoke("authority", build.authority_key(certificate), reason="stolen", by=BY)
        assert line.certificates == [f"{certificate.serial_number:x}"]
    with pytest.raises(RefusedError, match="stolen"):
        opening.for_clients(fleet_dir)
    assert "revoked" in add(root, secrets, "fleet").reason
    assert opening.for_clients(fleet_dir)
    with pytest.raises(RefusedError, match="stolen"):
        making.sign_request(root, text, "orchard", by=BY, where="request")
