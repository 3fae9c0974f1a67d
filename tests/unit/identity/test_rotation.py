"""Rotation: both trusted, then the new one signs, then the old one goes; cut off at every write, it goes on."""

from __future__ import annotations

import datetime as dt
import shutil

import pytest
from cryptography import x509

from hedgerow import atomic, paths
from hedgerow.errors import RefusedError, UsageError
from hedgerow.fleet import access
from hedgerow.identity import enrol as device_side
from hedgerow.identity.authority import generations, making, opening, rotation
from hedgerow.identity.authority.issuing import IssuingCA
from hedgerow.identity.authority.root import RootCA
from hedgerow.identity.ca import FleetCA, read_certificate
from hedgerow.identity.enrolment import enrol
from hedgerow.identity.profiles import Profile


def bundle(fleet_dir):
    return x509.load_pem_x509_certificates((fleet_dir / "ca" / "ca.crt").read_bytes())


def states(fleet_dir):
    return [each.state for each in generations.read(fleet_dir / "ca")]


def begin(fleet_dir, **options):
    return rotation.begin(fleet_dir, None, two_tier=False, **options)


def test_from_one_to_the_next_nobody_is_refused(*, fleet_dir, authority, make_csr, names, verify, now):
    before = authority.sign_csr(make_csr()[0], Profile.DEVICE, names)
    generation, changed = begin(fleet_dir, now=now)
    assert (generation.number, changed) == (2, True)
    assert len(bundle(fleet_dir)) == 2
    assert read_certificate(fleet_dir) == authority.certificate, "the old one signs on"
    between = FleetCA.open(fleet_dir).sign_csr(make_csr()[0], Profile.DEVICE, names)

    rotation.switch(fleet_dir, now=now)
    fresh = FleetCA.open(fleet_dir)
    assert fresh.certificate != authority.certificate
    assert fresh.certificate.subject != authority.certificate.subject
    assert bundle(fleet_dir) == [fresh.certificate, authority.certificate], "the active one is first"
    after = fresh.sign_csr(make_csr()[0], Profile.DEVICE, names)
    for chain in (before, between, after):
        assert verify(fresh.anchors, chain) is None

    with pytest.raises(RefusedError, match="2 certificates of generation 1 have life left"):
        rotation.finish(fleet_dir, now=now)
    assert rotation.finish(fleet_dir, now=now + dt.timedelta(days=31))[1]
    assert bundle(fleet_dir) == [fresh.certificate]
    assert verify(FleetCA.open(fleet_dir).anchors, after) is None
    assert verify(FleetCA.open(fleet_dir).anchors, before) is not None
    assert states(fleet_dir) == ["retired", "active"]


def test_every_step_is_done_once(fleet_dir, authority):
    assert begin(fleet_dir)[1]
    first = bundle(fleet_dir)
    assert not begin(fleet_dir)[1]
    assert bundle(fleet_dir) == first
    assert rotation.switch(fleet_dir)[1]
    assert not rotation.switch(fleet_dir)[1]
    assert rotation.finish(fleet_dir)[1]
    assert rotation.finish(fleet_dir) == (None, False)
    assert states(fleet_dir) == ["retired", "active"]


def test_what_is_out_of_order_is_refused(fleet_dir, authority):
    with pytest.raises(RefusedError, match="no next generation"):
        rotation.switch(fleet_dir)
    begin(fleet_dir)
    with pytest.raises(RefusedError, match="signs nothing yet"):
        rotation.finish(fleet_dir)
    with pytest.raises(RefusedError, match="begun with one tier"):
        rotation.begin(fleet_dir, None, two_tier=True)
    rotation.switch(fleet_dir)
    with pytest.raises(RefusedError, match="not taken out of use"):
        begin(fleet_dir)


def test_a_fleet_without_a_ca_has_nothing_to_rotate(fleet_dir):
    (fleet_dir / "ca").mkdir(parents=True)
    with pytest.raises(UsageError, match="hedgerow ca init"):
        begin(fleet_dir)


def test_a_next_one_may_be_given_up(fleet_dir, authority):
    begin(fleet_dir)
    assert rotation.abort(fleet_dir)
    assert not rotation.abort(fleet_dir)
    assert bundle(fleet_dir) == [authority.certificate]
    assert begin(fleet_dir)[0].number == 3, "a number, and so a subject, is never used again"


def test_what_was_revoked_does_not_hold_up_the_end(fleet_dir, authority, make_csr, names):
    authority.sign_csr(make_csr()[0], Profile.DEVICE, names)
    begin(fleet_dir)
    rotation.switch(fleet_dir)
    authority.revoke("board", names.serial, reason="sold", by="ada@desk")
    assert rotation.finish(fleet_dir)[1]


def test_forced_it_ends_though_certificates_have_life_left(fleet_dir, authority, make_csr, names):
    authority.sign_csr(make_csr()[0], Profile.DEVICE, names)
    begin(fleet_dir)
    rotation.switch(fleet_dir)
    assert rotation.finish(fleet_dir, force=True)[1]


def test_a_single_tier_moves_to_two(*, fleet_dir, authority, secrets, make_csr, names, verify):
    before = authority.sign_csr(make_csr()[0], Profile.DEVICE, names)
    rotation.begin(fleet_dir, secrets, two_tier=True)
    with pytest.raises(RefusedError, match="no issuing CA for fleet"):
        rotation.switch(fleet_dir)
    making.add(RootCA.open(fleet_dir, secrets, number=2), "fleet", secrets, by="ada@desk")
    assert isinstance(opening.for_site(fleet_dir, "orchard"), FleetCA)
    rotation.switch(fleet_dir)
    issuer = opening.for_site(fleet_dir, "orchard")
    assert isinstance(issuer, IssuingCA)
    after = issuer.sign_csr(make_csr()[0], Profile.DEVICE, names)
    for chain in (before, after):
        assert verify(issuer.anchors, chain) is None
    rows = rotation.status(fleet_dir)
    assert [(row.tiers, row.issuing, row.alive) for row in rows] == [(1, (), 1), (2, ("fleet",), 1)]


def test_a_rotated_root_needs_the_issuing_cas_of_the_one_before(fleet_dir, root, secrets):
    for name in ("fleet", "orchard"):
        making.add(root, name, secrets, by="ada@desk")
    rotation.begin(fleet_dir, secrets, two_tier=True)
    fresh = RootCA.open(fleet_dir, secrets, number=2)
    making.add(fresh, "fleet", secrets, by="ada@desk")
    with pytest.raises(RefusedError, match="no issuing CA for orchard") as refused:
        rotation.switch(fleet_dir)
    assert "hedgerow ca issuing add orchard --next" in str(refused.value)
    making.add(fresh, "orchard", secrets, by="ada@desk")
    assert rotation.switch(fleet_dir)[1]
    assert opening.for_site(fleet_dir, "orchard").home.is_relative_to(fleet_dir / "ca" / "generations" / "2")


def test_enrolment_renews_what_the_old_one_signed(fleet_dir, authority, names, now, tmp_path):
    folder = tmp_path / "identity"

    def run():
        def call(function, **arguments):
            return getattr(device_side, function)(**arguments)

        issuer = opening.for_site(fleet_dir, names.site)
        return enrol(call, issuer, Profile.DEVICE, names, directory=str(folder), now=now)

    run()
    begin(fleet_dir)
    assert run().reason is None
    assert (folder / "ca.crt").read_text() == (fleet_dir / "ca" / "ca.crt").read_text(), "both are trusted beforehand"
    rotation.switch(fleet_dir)
    assert run().reason == "another authority issued the certificate"
    assert run().reason is None


@pytest.mark.parametrize("two_tier", [False, True])
def test_the_controllers_own_certificates_follow_though_they_have_life_left(tmp_path, monkeypatch, secrets, two_tier):
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path))
    fleet_dir = paths.fleet_dir("meadow")
    FleetCA.init(fleet_dir, "meadow")
    access.context("meadow", Profile.MONITOR)
    file = fleet_dir / "ca" / "clients" / "controller-monitor.crt"
    first = file.read_bytes()
    access.context("meadow", Profile.MONITOR)
    assert file.read_bytes() == first
    rotation.begin(fleet_dir, secrets, two_tier=two_tier)
    if two_tier:
        making.add(RootCA.open(fleet_dir, secrets, number=2), "fleet", secrets, by="ada@desk")
    access.context("meadow", Profile.MONITOR)
    assert file.read_bytes() == first
    rotation.switch(fleet_dir)
    access.context("meadow", Profile.MONITOR)
    second = file.read_bytes()
    assert second != first
    assert second.count(b"BEGIN CERTIFICATE") == 1 + two_tier
    access.context("meadow", Profile.MONITOR)
    assert file.read_bytes() == second


class PowerCut(Exception):
    pass


@pytest.mark.parametrize("steps", ["begin", "switch", "finish"])
def test_a_power_cut_at_any_write_is_made_good_by_the_next_run(fleet_dir, authority, monkeypatch, tmp_path, steps):
    """Before and after every file that a step writes; what peers trust always holds who signs."""
    do = {"begin": begin, "switch": rotation.switch, "finish": rotation.finish}
    for earlier in list(do)[: list(do).index(steps)]:
        do[earlier](fleet_dir)
    start = tmp_path / "start"
    shutil.copytree(fleet_dir, start)
    do[steps](fleet_dir)
    wanted = states(fleet_dir)

    write, cuts = atomic.write_bytes, 0
    for before in (True, False):
        for number in range(20):
            shutil.rmtree(fleet_dir)
            shutil.copytree(start, fleet_dir)
            done = [0]

            def cut(path, data, *, mode=0o644, done=done, number=number, before=before):
                if done[0] == number and before:
                    raise PowerCut
                write(path, data, mode=mode)
                done[0] += 1
                if done[0] > number and not before:
                    raise PowerCut

            monkeypatch.setattr(atomic, "write_bytes", cut)
            try:
                do[steps](fleet_dir)
            except PowerCut:
                cuts += 1
            else:
                break
            finally:
                monkeypatch.setattr(atomic, "write_bytes", write)
            assert FleetCA.open(fleet_dir).certificate in bundle(fleet_dir)
            do[steps](fleet_dir)
            assert states(fleet_dir) == wanted
            assert bundle(fleet_dir) == [
                generations.certificate(fleet_dir / "ca", each.number) for each in generations.trusted(fleet_dir / "ca")
            ]
            assert FleetCA.open(fleet_dir).certificate == bundle(fleet_dir)[0]
    assert cuts >= 4
