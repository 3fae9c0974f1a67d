"""Revoked certificates at a server's door, and certificates that are swapped while callers come."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import os
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
import server_support as everyday
import tls_support as support
from tls_support import Door, Signer, asked, caller, connected

from hedgerow.errors import MachineError
from hedgerow.identity import certificates
from hedgerow.identity.profiles import Profile
from hedgerow.identity.revoked import Lists
from hedgerow.server import admission
from hedgerow.server.admission import Admission

REFUSED = (ssl.SSLError, ConnectionError)


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.single(tmp_path)


@pytest.fixture
def door(signer: Signer, tmp_path: Path, running):
    """A server that goes by ``crl.pem``, which is not there yet."""
    support.write_server_files(tmp_path / "server", signer)
    made = Door(support.opened(tmp_path / "server", tmp_path / "crl.pem"))
    running.append(made)
    return made


def enforce(door: Door, folder: Path, *lists: str) -> int:
    """Place the lists as a host's fetch does, and look as the server does every few seconds."""
    (folder / "crl.pem.new").write_text("".join(lists))
    (folder / "crl.pem.new").replace(folder / "crl.pem")
    return int(door.call(door.tls.admission.look))


def ask(door: Door, pair: support.Pair | None, signer: Signer) -> int:
    with connected(door.port, caller(pair, signer.root)) as connection:
        return asked(connection)


def is_cut(connection: ssl.SSLSocket) -> bool:
    try:
        return asked(connection) != 200
    except REFUSED:
        return True


def test_without_lists_everybody_of_the_fleet_is_let_in(door: Door, signer: Signer) -> None:
    assert ask(door, signer.issue(Profile.CLIENT), signer) == 200
    assert door.tls.admission.file.problem is None


def test_a_revoked_certificate_gets_no_answer_and_others_never_notice(
    door: Door, signer: Signer, tmp_path: Path
) -> None:
    stolen, good = signer.issue(Profile.OPERATOR), signer.issue(Profile.CLIENT)
    with (
        connected(door.port, caller(stolen, signer.root)) as theirs,
        connected(door.port, caller(good, signer.root)) as ours,
    ):
        assert (asked(theirs), asked(ours)) == (200, 200)
        assert enforce(door, tmp_path, signer.crl(stolen.leaf)) == 1
        with pytest.raises(REFUSED):
            asked(theirs)
        assert asked(ours) == 200
    with pytest.raises(REFUSED):
        ask(door, stolen, signer)
    assert ask(door, good, signer) == 200


def test_the_server_looks_by_itself_well_within_a_minute(monkeypatch, door: Door, signer: Signer, tmp_path) -> None:
    assert admission.LOOK_S <= 30
    monkeypatch.setattr(admission, "LOOK_S", 0.01)
    stolen = signer.issue(Profile.OPERATOR)

    def begin() -> None:
        door.watching = asyncio.ensure_future(door.tls.admission.watch())

    door.call(begin)
    with connected(door.port, caller(stolen, signer.root)) as theirs:
        assert asked(theirs) == 200
        (tmp_path / "crl.pem").write_text(signer.crl(stolen.leaf))
        everyday.wait(lambda: is_cut(theirs))
    door.call(door.watching.cancel)


def test_a_list_that_is_out_of_date_is_applied_and_told_of(door: Door, signer: Signer, tmp_path, caplog) -> None:
    stolen, good = signer.issue(Profile.OPERATOR), signer.issue(Profile.CLIENT)
    enforce(door, tmp_path, signer.crl(stolen.leaf, next_update=dt.timedelta(days=-3)))
    with pytest.raises(REFUSED):
        ask(door, stolen, signer)
    assert ask(door, good, signer) == 200
    since = door.tls.admission.file.outdated()
    assert since is not None
    assert support.now() - since < dt.timedelta(days=3, minutes=5)
    assert "out of date since" in caplog.text


def test_a_list_that_another_key_signed_ends_nobodys_access(door: Door, signer: Signer, tmp_path: Path) -> None:
    good = signer.issue(Profile.CLIENT)
    enforce(door, tmp_path, signer.crl(good.leaf, key=certificates.new_key()))
    assert ask(door, good, signer) == 200


@pytest.mark.parametrize("content", ["", "junk", "-----BEGIN X509 CRL-----\nMIIB", "{cut}"])
def test_a_damaged_or_missing_file_leaves_what_was_in_force(
    door: Door, signer: Signer, tmp_path: Path, content: str, caplog
) -> None:
    stolen = signer.issue(Profile.OPERATOR)
    enforce(door, tmp_path, signer.crl(stolen.leaf))
    enforce(door, tmp_path, content.replace("{cut}", signer.crl()[:-30]))
    assert "cannot be used" in caplog.text
    with pytest.raises(REFUSED):
        ask(door, stolen, signer)
    (tmp_path / "crl.pem").unlink()
    door.call(door.tls.admission.look)
    assert "has gone" in str(door.tls.admission.file.problem)
    with pytest.raises(REFUSED):
        ask(door, stolen, signer)
    enforce(door, tmp_path, signer.crl(number=2))
    assert ask(door, stolen, signer) == 200
    assert door.tls.admission.file.problem is None


def test_an_unreadable_file_is_told_of_and_stops_nobody(signer: Signer, tmp_path: Path) -> None:
    (tmp_path / "crl.pem").mkdir()  # root reads what it may not; nobody reads a folder
    found = Admission(tmp_path / "crl.pem")
    assert "cannot be used" in str(found.file.problem)
    assert found.admits((signer.issue(Profile.CLIENT).leaf, signer.certificate))


@pytest.fixture
def tiers(tmp_path: Path, running):
    root, issuing = Signer.below(tmp_path)
    support.write_server_files(tmp_path / "server", issuing)
    door = Door(support.opened(tmp_path / "server", tmp_path / "crl.pem"))
    running.append(door)
    return root, issuing, door


def test_two_tiers_are_let_in_by_their_root_and_one_holder_is_revoked_by_the_issuing_list(tiers, tmp_path) -> None:
    root, issuing, door = tiers
    stolen, good = issuing.issue(Profile.CLIENT), issuing.issue(Profile.CLIENT)
    assert ask(door, stolen, root) == 200
    # Two authorities, lists of one: nobody else is refused for want of the other's.
    enforce(door, tmp_path, issuing.crl(stolen.leaf))
    with pytest.raises(REFUSED):
        ask(door, stolen, root)
    assert ask(door, good, root) == 200


def test_a_revoked_issuing_ca_ends_all_that_it_signed(tiers, tmp_path: Path) -> None:
    root, issuing, door = tiers
    pair = issuing.issue(Profile.CLIENT)
    assert ask(door, pair, root) == 200
    enforce(door, tmp_path, issuing.crl(), root.crl(issuing.certificate))
    with pytest.raises(REFUSED):
        ask(door, pair, root)


def test_a_chain_without_its_issuing_ca_is_refused(tiers) -> None:
    root, issuing, door = tiers
    pair = issuing.issue(Profile.CLIENT)
    pair.certificate.write_text(certificates.pem(pair.leaf))
    with pytest.raises(REFUSED):
        ask(door, pair, root)


def test_a_root_that_left_the_bundle_counts_no_longer_after_a_reload(
    door: Door, signer: Signer, tmp_path: Path
) -> None:
    """CA rotation: both roots for a while, then the new one alone, in a process that is never restarted."""
    new = Signer.single(tmp_path)
    anchors = tmp_path / "server" / "ca.crt"
    old_caller, new_caller = signer.issue(Profile.CLIENT), new.issue(Profile.CLIENT)
    with pytest.raises(REFUSED):
        ask(door, new_caller, signer)
    anchors.write_text(certificates.pem(signer.root) + certificates.pem(new.root))
    door.call(door.tls.reload)
    assert ask(door, old_caller, signer) == ask(door, new_caller, signer) == 200
    support.write_server_files(tmp_path / "server", new)
    door.call(door.tls.reload)
    assert ask(door, new_caller, new) == 200
    with pytest.raises(REFUSED):
        ask(door, old_caller, new)


def test_certificates_swapped_twenty_times_under_load_fail_no_request(
    door: Door, signer: Signer, tmp_path: Path
) -> None:
    """Every request on a connection of its own, beside connections that stay; each swap must be seen by a caller."""
    context = caller(signer.issue(Profile.CLIENT), signer.root)
    failures: list[BaseException] = []
    shown: set[str] = set()
    count = itertools.count()
    stop = threading.Event()

    def hammer(*, stays: bool) -> None:
        connection = None
        try:
            while not stop.is_set():
                connection = connection or connected(door.port, context)
                assert asked(connection) == 200
                next(count)
                if not stays:
                    shown.add(str(connection.getpeercert()["serialNumber"]))
                    connection.close()
                    connection = None
        except Exception as error:  # noqa: BLE001 - whatever a caller sees is the finding
            failures.append(error)
        finally:
            if connection is not None:
                connection.close()

    callers = [threading.Thread(target=hammer, kwargs={"stays": number == 0}) for number in range(4)]
    for each in callers:
        each.start()
    try:
        for _ in range(20):
            support.write_server_files(tmp_path / "server", signer)
            door.call(door.tls.reload)
            wanted = support.Pair(tmp_path, tmp_path / "server" / "device.crt").leaf.serial_number
            everyday.wait(lambda wanted=wanted: failures or any(int(each, 16) == wanted for each in list(shown)))
            assert not failures
    finally:
        stop.set()
        for each in callers:
            each.join(support.PATIENCE_S)
    assert failures == []
    assert len(shown) >= 20
    assert next(count) >= 40


def test_a_half_written_pair_never_reaches_a_handshake(door: Door, signer: Signer, tmp_path: Path) -> None:
    pair = signer.issue(Profile.CLIENT)
    (tmp_path / "server" / "device.key").write_bytes(support.private_pem(certificates.new_key()))
    with pytest.raises(MachineError, match="cannot be used"):
        door.call(door.tls.reload)
    assert ask(door, pair, signer) == 200


def test_lists_are_read_as_openssl_writes_and_applies_them(signer: Signer, tmp_path: Path) -> None:
    """The same verdict as ``openssl verify -crl_check`` on the same files."""
    stolen, good = signer.issue(Profile.CLIENT), signer.issue(Profile.CLIENT)
    (tmp_path / "crl.pem").write_text("# a comment\n" + signer.crl(stolen.leaf))
    (tmp_path / "ca.pem").write_text(certificates.pem(signer.root))
    lists = Lists.parse((tmp_path / "crl.pem").read_bytes())
    for pair in (stolen, good):
        command = ["openssl", "verify", "-crl_check", "-CRLfile", tmp_path / "crl.pem", "-CAfile", tmp_path / "ca.pem"]
        done = subprocess.run(
            [*command, pair.certificate], capture_output=True, text=True, check=False, env=dict(os.environ)
        )
        ours = lists.revoked((pair.leaf, signer.certificate))
        assert (done.returncode == 0) == (ours is None), done.stderr
    assert lists.revoked((stolen.leaf, signer.certificate)) == stolen.leaf
