from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509

from hedgerow.errors import RefusedError
from hedgerow.identity import enrol as device_side
from hedgerow.identity import revocations
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.enrolment import enrol
from hedgerow.identity.profiles import Profile

BY = {"reason": "sold", "by": "ada@desk"}


@pytest.fixture
def run(tmp_path, authority, names, now):
    """Enrolment as an action plugin does it; the device is this process."""
    folder = tmp_path / "identity"

    def go(**options):
        def call(function, **arguments):
            return getattr(device_side, function)(**arguments)

        return enrol(call, authority, Profile.DEVICE, names, directory=str(folder), now=now, **options)

    go.folder = folder
    return go


def present(run) -> x509.Certificate:
    return x509.load_pem_x509_certificate((run.folder / "device.crt").read_bytes())


def test_a_board_that_was_revoked_gets_no_certificate(authority, make_csr, names):
    csr, _ = make_csr()
    authority.sign_csr(csr, Profile.DEVICE, names)
    line, changed = authority.revoke("board", names.serial, **BY)
    assert changed
    assert len(line.certificates) == 1
    with pytest.raises(RefusedError, match="sold") as refused:
        authority.sign_csr(make_csr()[0], Profile.DEVICE, names)
    assert f"hedgerow ca readmit {names.serial}" in str(refused.value)


def test_enrolment_refuses_it_though_its_certificate_has_life_left(run, authority, names):
    run()
    authority.revoke("board", names.serial, **BY)
    for options in ({}, {"check": True}, {"force": True}):
        with pytest.raises(RefusedError, match="was revoked"):
            run(**options)


def test_admitted_again_it_gets_a_certificate_for_another_key(run, authority, names):
    run()
    first = present(run)
    authority.revoke("board", names.serial, **BY)
    assert authority.readmit("board", names.serial, reason="bought back", by="ada@desk")
    assert run(check=True).key_created
    outcome = run()
    assert outcome.key_created
    assert present(run).serial_number != first.serial_number
    assert present(run).public_key() != first.public_key()
    assert f"{first.serial_number:x}" in authority.revoked_certificates()
    assert not run().changed


def test_a_revoked_key_is_never_certified_again(authority, make_csr, names):
    csr, _ = make_csr()
    authority.sign_csr(csr, Profile.DEVICE, names)
    authority.revoke("board", names.serial, **BY)
    authority.readmit("board", names.serial, reason="back", by="ada@desk")
    with pytest.raises(RefusedError, match="key that was revoked"):
        authority.sign_csr(csr, Profile.DEVICE, names)


def test_revoking_twice_writes_one_line(authority, make_csr, names):
    authority.sign_csr(make_csr()[0], Profile.DEVICE, names)
    first, _ = authority.revoke("board", names.serial, **BY)
    second, changed = authority.revoke("board", names.serial, reason="again", by="bob@desk")
    assert (second, changed) == (first, False)
    assert len(revocations.read(authority.folder)) == 1


def test_what_has_expired_needs_no_revocation(authority, make_csr, names, now):
    authority.sign_csr(make_csr()[0], Profile.DEVICE, names, days=1, now=now - dt.timedelta(days=3))
    line, changed = authority.revoke("board", names.serial, **BY)
    assert (line.certificates, changed) == ([], True)


def test_another_board_is_not_touched(authority, make_csr, names):
    authority.revoke("board", "10000000ffffffff", **BY)
    assert authority.sign_csr(make_csr()[0], Profile.DEVICE, names)


def test_a_client_and_a_board_of_one_name_are_two(authority):
    authority.revoke("board", "ada", **BY)
    assert authority.issue_client(Profile.OPERATOR, "ada").changed
    authority.revoke("client", "ada", **BY)
    with pytest.raises(RefusedError, match="was revoked"):
        authority.issue_client(Profile.OPERATOR, "ada", force=True)
    authority.readmit("client", "ada", reason="back", by="ada@desk")
    again = authority.issue_client(Profile.OPERATOR, "ada")
    assert again.changed  # though the file that is there has life left
    assert not authority.issue_client(Profile.OPERATOR, "ada").changed


def test_readmitting_nobody_says_so(authority):
    assert not authority.readmit("board", "10000000a1b2c3d4", reason="x", by="ada@desk")
    assert revocations.read(authority.folder) == []


def test_the_ledger_outlives_a_torn_line(authority, fleet_dir, names):
    authority.revoke("board", names.serial, **BY)
    file = authority.folder / revocations.FILE
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(file.read_bytes() + b'{"event": "readm')
    with pytest.raises(RefusedError):
        FleetCA.open(fleet_dir).require_admitted("board", names.serial)
    assert authority.readmit("board", names.serial, reason="back", by="ada@desk")
    authority.require_admitted("board", names.serial)
