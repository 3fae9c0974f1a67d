"""The device's half, on real folders with the real openssl."""

import ast
import os
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hedgerow import remote_script
from hedgerow.identity import certificates, enrol
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.keys_device import folder as folders
from hedgerow.identity.keys_device import kinds, otp, tool, trial
from hedgerow.identity.profiles import Profile

SERIAL = "10000000a1b2c3d4"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "var" / "lib" / "identity"


@pytest.fixture
def ca_pem(authority):
    return certificates.pem(authority.certificate)


@pytest.fixture
def enrolled(folder, authority, names, ca_pem):
    csr = enrol.request(str(folder), SERIAL)["csr"]
    enrol.install(str(folder), authority.sign_csr(csr, Profile.DEVICE, names), ca_pem)
    return folder


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("module", [enrol, tool, kinds, otp, folders, trial], ids=lambda each: each.__name__)
def test_nothing_but_the_standard_library_is_imported(module):
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} | {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    foreign = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not name.startswith("hedgerow.identity.keys_device")} == set()


def test_it_runs_on_a_host_that_has_no_hedgerow(folder):
    """As the controller sends it: source alone, in a Python without our package."""
    script = remote_script.build("hedgerow.identity.enrol", "request", directory=str(folder), serial=SERIAL)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-"], input=script, text=True, capture_output=True, check=True, cwd="/"
    )
    assert remote_script.parse(done.stdout, host="pi")["key_created"]
    assert (folder / "device.key").exists()


def test_a_bare_device_has_nothing_and_status_makes_nothing(folder):
    assert enrol.status(str(folder)) == {
        "public_key": None,
        "certificate": None,
        "ca": None,
        "faults": [],
        "key_exposed": False,
        "key_kind": None,
        "layout": "files",
        "anchor": None,
    }
    assert not folder.exists()


def test_the_key_is_made_private_whatever_the_umask(folder):
    before = os.umask(0)
    try:
        answer = enrol.request(str(folder), SERIAL)
    finally:
        os.umask(before)
    assert answer["key_created"]
    assert (mode(folder), mode(folder / "device.key")) == (0o700, 0o600)
    assert mode(folder.parent) == 0o755
    assert enrol.status(str(folder))["faults"] == []
    assert "PRIVATE" not in answer["csr"]


def test_a_second_request_is_for_the_same_key(folder):
    enrol.request(str(folder), SERIAL)
    key = (folder / "device.key").read_bytes()
    assert not enrol.request(str(folder), SERIAL)["key_created"]
    assert (folder / "device.key").read_bytes() == key


@pytest.mark.parametrize("content", ["", "-----BEGIN PRIVATE KEY-----\nMIG\n"])
def test_a_damaged_key_is_replaced(folder, content):
    enrol.request(str(folder), SERIAL)
    (folder / "device.key").write_text(content)
    assert enrol.status(str(folder))["public_key"] is None
    assert enrol.request(str(folder), SERIAL)["key_created"]
    assert enrol.status(str(folder))["public_key"] is not None


def test_status_tells_everything_and_no_secret(enrolled, ca_pem):
    found = enrol.status(str(enrolled))
    assert found["ca"] == ca_pem
    assert found["certificate"].startswith("-----BEGIN CERTIFICATE")
    assert found["public_key"].startswith("-----BEGIN PUBLIC KEY")
    assert "PRIVATE" not in str(found)


def test_installing_what_is_there_changes_nothing(enrolled):
    before = snapshot(enrolled)
    found = enrol.status(str(enrolled))
    assert enrol.install(str(enrolled), found["certificate"], found["ca"]) == {"changed": [], "layout": "files"}
    assert snapshot(enrolled) == before


def test_a_certificate_for_another_key_is_refused(enrolled, authority, names, make_csr, ca_pem):
    before = snapshot(enrolled)
    stranger = authority.sign_csr(make_csr()[0], Profile.DEVICE, names)
    with pytest.raises(enrol.EnrolError, match="another key"):
        enrol.install(str(enrolled), stranger, ca_pem)
    assert snapshot(enrolled) == before


def test_a_certificate_of_another_ca_is_refused(enrolled, tmp_path, names, ca_pem):
    other, _ = FleetCA.init(tmp_path / "impostor", "meadow")
    csr = enrol.request(str(enrolled), SERIAL)["csr"]
    before = snapshot(enrolled)
    with pytest.raises(enrol.EnrolError, match="does not chain"):
        enrol.install(str(enrolled), other.sign_csr(csr, Profile.DEVICE, names), ca_pem)
    assert snapshot(enrolled) == before


def test_text_that_is_no_certificate_is_refused(enrolled, ca_pem):
    before = snapshot(enrolled)
    with pytest.raises(enrol.EnrolError, match="no certificate"):
        enrol.install(str(enrolled), "hello", ca_pem)
    assert snapshot(enrolled) == before


def test_a_new_key_takes_over_only_with_its_certificate(enrolled, authority, names, ca_pem):
    before = snapshot(enrolled)
    asked = enrol.request(str(enrolled), SERIAL, new_key=True)
    assert asked["key_created"]
    assert {name: (enrolled / name).read_bytes() for name in before} == before
    changed = enrol.install(str(enrolled), authority.sign_csr(asked["csr"], Profile.DEVICE, names), ca_pem)
    assert changed["changed"] == ["device.key", "device.crt"]
    assert sorted(snapshot(enrolled)) == ["ca.crt", "device.crt", "device.key"]
    assert snapshot(enrolled)["device.key"] != before["device.key"]
    assert mode(enrolled / "device.key") == 0o600


def test_broken_modes_are_named_and_mended(enrolled):
    enrolled.chmod(0o755)
    (enrolled / "device.key").chmod(0o644)
    found = enrol.status(str(enrolled))
    wrong = {
        str(enrolled): "mode 0755 instead of 0700",
        str(enrolled / "device.key"): "mode 0644 instead of 0600",
    }
    assert {fault["path"]: fault["what"] for fault in found["faults"]} == wrong
    assert found["key_exposed"]
    assert enrol.repair(str(enrolled))["faults"] == found["faults"]
    assert (mode(enrolled), mode(enrolled / "device.key")) == (0o700, 0o600)
    after = enrol.status(str(enrolled))
    assert (after["faults"], after["key_exposed"]) == ([], False)


def test_a_loose_key_in_a_closed_folder_was_not_exposed(enrolled):
    (enrolled / "device.key").chmod(0o644)
    found = enrol.status(str(enrolled))
    assert len(found["faults"]) == 1
    assert not found["key_exposed"]


def test_a_link_in_place_of_the_key_is_refused(enrolled):
    (enrolled / "device.key").rename(enrolled.parent / "elsewhere.key")
    (enrolled / "device.key").symlink_to(enrolled.parent / "elsewhere.key")
    with pytest.raises(enrol.EnrolError, match="neither a plain file"):
        enrol.status(str(enrolled))


def test_a_missing_openssl_says_what_to_install(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(enrol.EnrolError, match="not installed") as caught:
        enrol.request(str(folder), SERIAL)
    assert caught.value.next_step == "apt-get install openssl"


def test_a_key_that_openssl_could_not_write_never_takes_over(enrolled, monkeypatch, tmp_path):
    """As openssl 3.5 does on a full disk, seen on an emulated host: an empty file, exit code 0."""
    real = shutil.which("openssl")
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "openssl"
    stub.write_text(f'#!/bin/sh\n[ "$1" = genpkey ] || exec {real} "$@"\nfor out; do :; done\n: >"$out"\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    before = snapshot(enrolled)
    with pytest.raises(enrol.EnrolError, match="no usable key"):
        enrol.request(str(enrolled), SERIAL, new_key=True)
    assert snapshot(enrolled) == before


def _limited(program, folder, *arguments):
    """Run in a process that may write no file longer than 300 bytes: as a full disk, without needing to be root."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    return subprocess.run(
        [sys.executable, "-c", program, str(folder), *arguments],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_write_that_fails_midway_leaves_the_old_certificate(enrolled, authority, names, ca_pem):
    before = snapshot(enrolled)
    csr = enrol.request(str(enrolled), SERIAL)["csr"]
    fresh = authority.sign_csr(csr, Profile.DEVICE, names)
    done = _limited(
        "import sys\nfrom hedgerow.identity import enrol\n"
        "try:\n    enrol.install(*sys.argv[1:])\n"
        "except enrol.EnrolError as error:\n    print(error.what)\n",
        *(enrolled, fresh, ca_pem),
    )
    assert done.stdout == "the disk is full; the old certificate stays\n", done.stderr
    assert snapshot(enrolled) == before
    assert enrol.install(str(enrolled), fresh, ca_pem)["changed"] == ["device.crt"]
