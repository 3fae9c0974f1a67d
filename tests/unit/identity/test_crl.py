"""Revocation lists, judged by ``openssl verify -crl_check_all``."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509

from hedgerow.errors import RefusedError
from hedgerow.identity import issued, revocations
from hedgerow.identity.authority import build, crl, lists, making, opening
from hedgerow.identity.authority.admission import Admission
from hedgerow.identity.authority.issuing import IssuingCA
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import DeviceNames, Profile
from hedgerow.passphrases import Passphrases

BY = {"reason": "stolen", "by": "ada@desk"}


@pytest.fixture
def checked(verify, tmp_path):
    """``openssl verify`` with every list of a bundle, for leaf and CAs."""

    def check(anchors, chain, bundle):
        path = tmp_path / "bundle.pem"
        path.write_text(bundle)
        return verify(anchors, chain, "-crl_check_all", "-CRLfile", str(path))

    return check


@pytest.fixture
def two(fleet_dir, root, secrets, now):
    """Two tiers: the fleet's issuing CA and that of site orchard, whose keys are here."""
    for name in ("fleet", "orchard"):
        making.add(root, name, secrets, by="ada@desk", now=now)
    return fleet_dir / "ca"


def lists_in(text):
    blocks = [block + "-----END X509 CRL-----\n" for block in text.split("-----END X509 CRL-----\n")[:-1]]
    return [x509.load_pem_x509_crl(block[block.index("-----BEGIN X509 CRL") :].encode()) for block in blocks]


def test_who_is_revoked_is_refused_and_the_others_are_not(*, two, fleet_dir, secrets, checked, make_csr, names):
    issuer = opening.for_site(fleet_dir, "orchard")
    other = DeviceNames(fleet="meadow", site="orchard", host="pi-orchard-2", serial="10000000a1b2c3d5")
    bad = issuer.sign_csr(make_csr()[0], Profile.DEVICE, names)
    good = issuer.sign_csr(make_csr(f"/CN={other.serial}")[0], Profile.DEVICE, other)
    assert all(status.problem is None and status.changed for status in lists.refresh(two, secrets))
    bundle = (two / lists.BUNDLE).read_text
    assert checked(issuer.anchors, bad, bundle()) is None

    Admission(two).revoke("board", names.serial, **BY)
    changed = [status.authority.name for status in lists.refresh(two, secrets) if status.changed]
    assert changed == ["orchard"]
    assert "certificate revoked" in checked(issuer.anchors, bad, bundle())
    assert checked(issuer.anchors, good, bundle()) is None


def test_without_every_list_of_the_chain_nothing_passes(*, two, fleet_dir, root, secrets, checked, make_csr, names):
    issuer = opening.for_site(fleet_dir, "orchard")
    chain = issuer.sign_csr(make_csr()[0], Profile.DEVICE, names)
    lists.refresh(two, secrets)
    alone = (issuer.home / lists.LIST).read_text()
    assert "unable to get certificate CRL" in checked(issuer.anchors, chain, alone)


def test_a_revoked_issuing_ca_takes_all_it_signed_with_it(*, two, fleet_dir, secrets, checked, make_csr, names):
    issuer = opening.for_site(fleet_dir, "orchard")
    chain = issuer.sign_csr(make_csr()[0], Profile.DEVICE, names)
    Admission(two).revoke("authority", build.authority_key(issuer.certificate), **BY)
    lists.refresh(two, secrets)
    assert "certificate revoked" in checked(issuer.anchors, chain, (two / lists.BUNDLE).read_text())


def test_a_single_tier_has_a_list_too(authority, fleet_dir, checked, make_csr, names):
    chain = authority.sign_csr(make_csr()[0], Profile.DEVICE, names)
    folder = authority.folder
    (status,) = lists.refresh(folder, Passphrases())
    assert status.authority.name == "ca"
    assert checked(authority.anchors, chain, (folder / lists.BUNDLE).read_text()) is None
    authority.revoke("board", names.serial, **BY)
    lists.refresh(folder, Passphrases())
    assert "certificate revoked" in checked(authority.anchors, chain, (folder / lists.BUNDLE).read_text())


def test_lines_from_before_there_were_two_cas_are_of_the_first(authority, make_csr, names, tmp_path):
    certificate = x509.load_pem_x509_certificate(authority.sign_csr(make_csr()[0], Profile.DEVICE, names).encode())
    old = list(issued.read(authority.log))
    authority.log.unlink()
    (authority.folder / "issued.jsonl.head").unlink()
    authority.log.write_bytes(b"".join(line_of(entry, without=("issuer_key", "key_id", "by")) for entry in old))
    authority.revoke("board", names.serial, **BY)
    (status,) = lists.refresh(authority.folder, Passphrases())
    assert crl.serials(status.found) == {f"{certificate.serial_number:x}"}


def line_of(entry, without):
    import msgspec

    fields = {key: value for key, value in msgspec.to_builtins(entry).items() if key not in without}
    return msgspec.json.encode(fields) + b"\n"


def test_a_current_list_stays_and_half_a_life_renews_it(two, secrets, now):
    first = {status.authority.name: status.found for status in lists.refresh(two, secrets, now=now)}
    assert not any(status.changed for status in lists.refresh(two, secrets, now=now))
    later = now + dt.timedelta(days=4)
    changed = {
        status.authority.name: status.found for status in lists.refresh(two, secrets, now=later) if status.changed
    }
    assert set(changed) == {"fleet", "orchard"}  # the root's lives for half a year
    assert all(crl.number(changed[name]) > crl.number(first[name]) for name in changed)
    assert all(status.changed for status in lists.refresh(two, secrets, now=later, force=True))


def test_numbers_grow_when_the_clock_does_not(two, secrets, now):
    numbers = []
    for _ in range(3):
        (status, *_) = lists.refresh(two, secrets, now=now, force=True)
        numbers.append(crl.number(status.found))
    assert numbers == sorted(set(numbers))


def test_a_ca_from_an_older_backup_does_not_go_back(two, secrets, now):
    backup = {path: path.read_bytes() for path in two.rglob(lists.LIST)}
    lists.refresh(two, secrets, now=now)
    newest = lists.refresh(two, secrets, now=now + dt.timedelta(hours=5), force=True)
    for path in two.rglob(lists.LIST):
        path.unlink()
    for path, data in backup.items():
        path.write_bytes(data)
    restored = lists.refresh(two, secrets, now=now + dt.timedelta(hours=6))
    assert [crl.number(a.found) < crl.number(b.found) for a, b in zip(newest, restored, strict=True)] == [True] * 3


def test_the_root_may_be_away_until_its_list_lacks_something(two, fleet_dir, root, secrets, now):
    lists.refresh(two, secrets, now=now)
    (two / "ca.key").rename(two / "in-the-safe")
    later = now + dt.timedelta(days=4)
    assert all(status.problem is None for status in lists.refresh(two, secrets, now=later))
    issuer = opening.for_site(fleet_dir, "orchard")
    Admission(two).revoke("authority", build.authority_key(issuer.certificate), **BY)
    problems = {status.authority.name: status.problem for status in lists.refresh(two, secrets, now=later)}
    assert problems["root"] == "its key is not here, and its list lacks what was revoked since"
    ended = lists.refresh(two, secrets, now=now + dt.timedelta(days=200))
    assert "lacks" in next(status.problem for status in ended if status.authority.name == "root")


def test_an_expired_certificate_stays_on_the_list_while_grace_could_open(
    *, two, fleet_dir, secrets, make_csr, names, now
):
    issuer = opening.for_site(fleet_dir, "orchard")
    issuer.sign_csr(make_csr()[0], Profile.DEVICE, names, days=1, now=now)
    Admission(two).revoke("board", names.serial, **BY, now=now)
    for days, listed in ((60, 1), (92, 0)):
        done = lists.refresh(two, secrets, now=now + dt.timedelta(days=days))
        found = next(status.found for status in done if status.authority.name == "orchard")
        assert len(crl.serials(found)) == listed


def test_what_a_gateway_renewed_unseen_is_revoked_with_its_holder(now):
    def entry(serial, time, name="10000000a1b2c3d4"):
        return issued.Issued(
            time, serial, "device", name, [], [], time, (now + dt.timedelta(days=30)).isoformat(), "", "", ""
        )

    log = [
        entry("a", "2026-01-01T00:00:00Z"),
        entry("b", "2026-03-01T00:00:00Z"),
        entry("c", "2026-03-01T00:00:00Z", "x"),
    ]
    revoked = revocations.Revoked(
        time="2026-02-01T00:00:00Z", kind="board", holder="10000000a1b2c3d4", certificates=["a"], **BY
    )
    again = revocations.Readmitted(time="2026-02-15T00:00:00Z", kind="board", holder="10000000a1b2c3d4", **BY)
    assert [found.serial_number for found in lists.entries_of([revoked], log, now=now)] == ["a", "b"]
    assert [found.serial_number for found in lists.entries_of([revoked, again], log, now=now)] == ["a"]
    unnamed = revocations.Revoked(
        time="2026-02-01T00:00:00Z", kind="board", holder="10000000a1b2c3d4", certificates=[], **BY
    )
    assert [found.serial_number for found in lists.entries_of([unnamed, again], log, now=now)] == ["a"]


def test_a_list_of_another_ca_is_not_taken_for_its_own(two, secrets):
    lists.refresh(two, secrets)
    homes = making.in_use(two)
    (homes["orchard"] / lists.LIST).write_bytes((homes["fleet"] / lists.LIST).read_bytes())
    with pytest.raises(RefusedError, match="not of the CA"):
        lists.refresh(two, secrets)


def test_no_root_is_in_the_bundle(two, root, secrets):
    lists.refresh(two, secrets)
    text = (two / lists.BUNDLE).read_text()
    assert build.certificates.pem(root.certificate) not in text
    assert text.count("BEGIN CERTIFICATE") == 2
    assert text.count("BEGIN X509 CRL") == 3


def test_a_gateway_keeps_its_own_list_and_merges_it(
    *, two, fleet_dir, root, secrets, tmp_path, checked, make_csr, names, now
):
    gateway = tmp_path / "gateway"
    text = making.request(gateway, "barn", None)
    made = making.sign_request(root, text, "barn", by="ada@desk", where="request", now=now)
    (gateway / "ca.crt").write_text((made.home / "ca.crt").read_text())
    (gateway / "anchors.crt").write_text((two / "ca.crt").read_text())
    issuer = IssuingCA.open(gateway)
    barn = DeviceNames(fleet="meadow", site="barn", host="pi-barn-1", serial=names.serial)
    chain = issuer.sign_csr(make_csr()[0], Profile.DEVICE, barn)
    problems = {status.authority.name: status.problem for status in lists.refresh(two, secrets)}
    assert problems["barn"] == "its key is not here, and there is no list yet"

    first = lists.refresh_own(issuer)
    assert lists.refresh_own(issuer) == first
    of_controller = (two / lists.BUNDLE).read_text()
    assert checked(issuer.anchors, chain, crl.merge(of_controller, crl.pem(first))) is None

    Admission(two).revoke("board", names.serial, **BY)
    (gateway / revocations.FILE).write_bytes((two / revocations.FILE).read_bytes())
    second = lists.refresh_own(issuer)
    merged = crl.merge(of_controller, crl.pem(first), crl.pem(second))
    assert "certificate revoked" in checked(issuer.anchors, chain, merged)
    assert len(lists_in(merged)) == 4
    assert crl.merge(merged) == merged

    # The controller fetches the gateway's list and has it in its bundle.
    (made.home / lists.LIST).write_text(crl.pem(second))
    assert all(status.problem is None for status in lists.refresh(two, secrets))
    assert crl.pem(second) in (two / lists.BUNDLE).read_text()


def test_rotated_single_tiers_keep_both_lists(authority, fleet_dir, checked, make_csr, names):
    from hedgerow.identity.authority import rotation

    old = authority.sign_csr(make_csr()[0], Profile.DEVICE, names)
    rotation.begin(fleet_dir, None, two_tier=False)
    rotation.switch(fleet_dir)
    issuer = FleetCA.open(fleet_dir)
    new = issuer.sign_csr(make_csr()[0], Profile.DEVICE, names)
    lists.refresh(issuer.folder, Passphrases())
    bundle = (issuer.folder / lists.BUNDLE).read_text()
    assert checked(issuer.anchors, old, bundle) is None
    assert checked(issuer.anchors, new, bundle) is None
    issuer.revoke("board", names.serial, **BY)
    lists.refresh(issuer.folder, Passphrases())
    bundle = (issuer.folder / lists.BUNDLE).read_text()
    assert "certificate revoked" in checked(issuer.anchors, old, bundle)
    assert "certificate revoked" in checked(issuer.anchors, new, bundle)
