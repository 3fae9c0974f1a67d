"""One switch for a whole pair: the layout ``generations``, cut off at every step and with a full disk at every step."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hedgerow.identity import certificates, enrol
from hedgerow.identity.keys_device import kinds
from hedgerow.identity.profiles import Profile

SERIAL = "10000000a1b2c3d4"
NAMES = ("device.key", "device.crt", "ca.crt")
CUT = Path(__file__).with_name("cut.py")


@pytest.fixture
def ca_pem(authority):
    return certificates.pem(authority.certificate)


@pytest.fixture
def issue(authority, names):
    def issue_(folder, **options):
        csr = enrol.request(str(folder), SERIAL, **options)["csr"]
        return authority.sign_csr(csr, Profile.DEVICE, names)

    return issue_


@pytest.fixture
def plain(tmp_path, issue, ca_pem):
    """A device as today's enrolment leaves it."""
    folder = tmp_path / "identity"
    enrol.install(str(folder), issue(folder), ca_pem)
    return folder


@pytest.fixture
def generational(plain, issue, ca_pem):
    assert enrol.install(str(plain), issue(plain), ca_pem, layout="generations")["layout"] == "generations"
    return plain


def contents(folder):
    return {name: (folder / name).read_bytes() for name in NAMES if (folder / name).exists()}


def matches(folder):
    """Whether the three names lead to a pair that belongs together, as a server that starts now would find."""
    key = subprocess.run(
        ["openssl", "pkey", "-in", folder / "device.key", "-pubout"], capture_output=True, check=True
    ).stdout
    shown = subprocess.run(
        ["openssl", "x509", "-in", folder / "device.crt", "-pubkey", "-noout"], capture_output=True, check=True
    ).stdout
    verified = subprocess.run(
        ["openssl", "verify", "-CAfile", folder / "ca.crt", folder / "device.crt"], capture_output=True, check=False
    )
    return key == shown and verified.returncode == 0


def cut(how, at, folder, function, **arguments):
    done = subprocess.run(
        [sys.executable, str(CUT), how, str(at), str(folder), function, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 137}, done.stderr
    return None if done.returncode else json.loads(done.stdout)


def test_plain_files_become_links_to_the_same_bytes(plain, ca_pem):
    before = contents(plain)
    found = enrol.status(str(plain))
    answer = enrol.install(str(plain), found["certificate"], ca_pem, layout="generations")
    assert answer == {"changed": [], "layout": "generations"}
    assert contents(plain) == before
    assert {name: str((plain / name).readlink()) for name in NAMES} == {name: f"current/{name}" for name in NAMES}
    assert sorted(path.name for path in plain.iterdir()) == [
        "ca.crt",
        "current",
        "device.crt",
        "device.key",
        "generations",
    ]


def test_a_first_enrolment_can_begin_with_generations(tmp_path, issue, ca_pem):
    folder = tmp_path / "fresh"
    enrol.install(str(folder), issue(folder), ca_pem, layout="generations")
    assert matches(folder)
    assert enrol.status(str(folder))["layout"] == "generations"


def test_a_new_key_takes_over_with_its_certificate_and_the_old_one_is_gone(generational, issue, ca_pem):
    old = (generational / "device.key").read_bytes()
    certificate = issue(generational, new_key=True)
    assert (generational / "device.key").read_bytes() == old
    assert enrol.install(str(generational), certificate, ca_pem)["changed"] == ["device.key", "device.crt"]
    assert matches(generational)
    kept = [path.read_bytes() for path in generational.rglob("*") if path.is_file()]
    assert old not in kept
    assert len(list((generational / "generations").iterdir())) == 1


def test_installing_what_is_there_makes_no_generation(generational, ca_pem):
    current = (generational / "current").readlink()
    certificate = enrol.status(str(generational))["certificate"]
    assert enrol.install(str(generational), certificate, ca_pem)["changed"] == []
    assert (generational / "current").readlink() == current


def test_a_generation_is_private_and_mended(generational):
    for path in (generational, generational / "generations", (generational / "current").resolve()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    key = (generational / "device.key").resolve()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(0o644)
    assert not enrol.status(str(generational))["key_exposed"]
    for path in (generational, generational / "generations", key.parent):
        path.chmod(0o755)
    found = enrol.status(str(generational))
    assert found["key_exposed"]
    assert len(found["faults"]) == 4
    enrol.repair(str(generational))
    after = enrol.status(str(generational))
    assert (after["faults"], after["key_exposed"]) == ([], False)


@pytest.mark.parametrize("target", ["../elsewhere", "generations", "/etc"])
def test_a_link_that_leads_elsewhere_is_refused(generational, target):
    (generational / "current").unlink()
    (generational / "current").symlink_to(target)
    with pytest.raises(enrol.EnrolError, match="no generation"):
        enrol.status(str(generational))


def test_a_name_that_leads_elsewhere_is_refused(generational):
    (generational / "device.key").unlink()
    (generational / "device.key").symlink_to("/etc/passwd")
    with pytest.raises(enrol.EnrolError, match="neither a plain file"):
        enrol.status(str(generational))


def test_a_plain_file_that_somebody_put_in_a_links_place_is_taken_in_again(generational, issue, ca_pem):
    kept = (generational / "device.crt").read_bytes()
    (generational / "device.crt").unlink()
    (generational / "device.crt").write_bytes(kept)
    enrol.install(str(generational), issue(generational), ca_pem)
    assert (generational / "device.crt").readlink() == Path("current/device.crt")
    assert matches(generational)


def test_a_layout_that_does_not_exist_is_refused(plain, issue, ca_pem):
    with pytest.raises(enrol.EnrolError, match="no layout"):
        enrol.install(str(plain), issue(plain), ca_pem, layout="folders")


def test_a_damaged_key_is_replaced_within_generations(generational, issue, ca_pem):
    (generational / "device.key").write_text("")
    enrol.install(str(generational), issue(generational), ca_pem)
    assert matches(generational)


def test_a_new_key_that_waits_is_asked_for_again(generational):
    first = enrol.request(str(generational), SERIAL, new_key=True, keep_pending=True)
    again = enrol.request(str(generational), SERIAL, new_key=True, keep_pending=True)
    other = enrol.request(str(generational), SERIAL, new_key=True)
    keys = [kinds.openssl("req", "-pubkey", "-noout", stdin=each["csr"]) for each in (first, again, other)]
    assert keys[0] == keys[1] != keys[2]
    assert (first["key_created"], again["key_created"]) == (True, False)


def test_a_leftover_of_a_cut_never_shares_bytes_with_what_is_in_service(generational, issue, ca_pem):
    """Between the switch and the clearing away, a staged name is a second name of the file in service."""
    os.link((generational / "device.crt").resolve(), generational / "device.crt.new")
    before = contents(generational)
    with pytest.raises(enrol.EnrolError, match="does not chain"):
        enrol.install(str(generational), before["device.crt"].decode(), _stranger())
    assert contents(generational) == before


def _stranger():
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
         "/dev/null", "-subj", "/CN=stranger"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("start", ["plain", "generational"])
def test_a_power_cut_at_any_step_leaves_a_pair_that_matches(request, start, tmp_path, issue, ca_pem):
    device = request.getfixturevalue(start)
    certificate = issue(device, new_key=True)
    arguments = {"certificate": certificate, "ca": ca_pem, "layout": "generations"}
    steps = cut("kill", 0, _copy(device, tmp_path / "whole"), "install", **arguments)["steps"]
    assert steps > 10
    for at in range(1, steps + 1):
        folder = _copy(device, tmp_path / f"cut-{at}")
        assert cut("kill", at, folder, "install", **arguments) is None
        assert set(contents(folder)) == set(NAMES), f"step {at}"
        assert matches(folder), f"step {at}"
        # What the next run finds: the same key again, whichever came through, and nothing left over in the end.
        enrol.install(str(folder), issue(folder, new_key=True), ca_pem, layout="generations")
        assert matches(folder)
        assert sorted(path.name for path in folder.iterdir() if path.suffix not in {".crt", ".key"}) == [
            "current",
            "generations",
        ]
        assert len(list((folder / "generations").iterdir())) == 1
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["plain", "generational"])
def test_a_full_disk_at_any_step_leaves_what_was_there_or_what_replaces_it(request, start, tmp_path, issue, ca_pem):
    device = request.getfixturevalue(start)
    before = contents(device)
    certificate = issue(device, new_key=True)
    arguments = {"certificate": certificate, "ca": ca_pem, "layout": "generations"}
    steps = cut("full", 0, _copy(device, tmp_path / "whole"), "install", **arguments)["steps"]
    refused = 0
    for at in range(1, steps + 1):
        folder = _copy(device, tmp_path / f"full-{at}")
        said = cut("full", at, folder, "install", **arguments)["said"]
        assert matches(folder), f"step {at}"
        if said is not None:
            assert said == "the disk is full; the old certificate stays"
            assert contents(folder) == before, f"step {at}"
            refused += 1
        shutil.rmtree(folder)
    assert refused >= 5


def _copy(device, target):
    """With hard links and symbolic ones as they are, as a card has them."""
    subprocess.run(["cp", "-a", str(device), str(target)], check=True)
    return target
