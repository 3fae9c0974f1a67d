"""Whose host key is trusted, and why."""

from __future__ import annotations

import base64
import stat
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from hedgerow import first_contact, paths
from hedgerow.errors import NetworkError, RefusedError, UsageError
from hedgerow.first_contact import HostKey, KnownHosts, Told, Verdict, decide
from hedgerow.inventory import load

# RFC 4253 wire form, so that ssh-keygen agrees about the fingerprint.
_HEADER = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"
GOOD = HostKey(base64.b64encode(_HEADER + b"g" * 32).decode())
EVIL = HostKey(base64.b64encode(_HEADER + b"e" * 32).decode())
TOLD = Told(GOOD.fingerprint, "the console")


@pytest.mark.parametrize(
    "told, pinned, accept_new, verdict",
    [
        (TOLD, None, False, Verdict.PIN),
        (TOLD, GOOD, False, Verdict.KEEP),
        (TOLD, EVIL, False, Verdict.REPLACE),
        (None, GOOD, False, Verdict.KEEP),
        (None, None, True, Verdict.PIN),
    ],
)
def test_trusted(told, pinned, accept_new, verdict):
    assert decide("pi-1", GOOD, told, pinned, accept_new=accept_new) is verdict


@pytest.mark.parametrize(
    "told, pinned, accept_new, said",
    [
        # Accepting new keys never outweighs a key that is known to be another.
        (TOLD, None, True, "but its key is"),
        (TOLD, EVIL, True, "but its key is"),
        (None, GOOD, True, "is pinned"),
        (None, None, False, "nobody said"),
    ],
)
def test_refused(told, pinned, accept_new, said):
    with pytest.raises(RefusedError, match=said) as caught:
        decide("pi-1", EVIL, told, pinned, accept_new=accept_new)
    assert EVIL.fingerprint in str(caught.value)
    assert caught.value.next_step


def test_fingerprint_is_what_ssh_keygen_prints(tmp_path):
    file = tmp_path / "key.pub"
    file.write_text(f"ssh-ed25519 {GOOD.blob} root@pi\n")
    printed = subprocess.run(["ssh-keygen", "-lf", str(file)], capture_output=True, text=True, check=True).stdout
    assert GOOD.fingerprint == printed.split()[1]


@pytest.mark.parametrize(
    "line",
    [
        f"ssh-ed25519 {GOOD.blob} root@pi",
        f"192.0.2.1 ssh-ed25519 {GOOD.blob}",
        f"[192.0.2.1]:22 ssh-ed25519 {GOOD.blob}",
    ],
)
def test_lines_with_a_key(line):
    assert HostKey.parse(line) == GOOD


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "192.0.2.1 ssh-rsa AAAA", "ssh-ed25519 !!!"])
def test_lines_without_one(line):
    assert HostKey.parse(line) is None


def test_known_hosts_keeps_one_key_a_host(tmp_path):
    known = KnownHosts(tmp_path / "ssh" / "known_hosts")
    assert known.get("192.0.2.1", 22) is None
    known.put("192.0.2.1", 22, EVIL)
    known.put("192.0.2.1", 2222, GOOD)
    known.put("192.0.2.1", 22, GOOD)
    assert known.get("192.0.2.1", 22) == GOOD
    assert known.get("192.0.2.1", 2222) == GOOD
    assert known.path.read_text().count("\n") == 2
    # OpenSSH reads it as we do.
    found = subprocess.run(
        ["ssh-keygen", "-F", "[192.0.2.1]:2222", "-f", str(known.path)], capture_output=True, text=True, check=True
    )
    assert GOOD.blob in found.stdout


def test_known_hosts_forgets_one_host(tmp_path):
    known = KnownHosts(tmp_path / "ssh" / "known_hosts")
    assert not known.forget("192.0.2.1", 22)
    known.put("192.0.2.1", 22, GOOD)
    known.put("192.0.2.1", 2222, GOOD)
    assert known.forget("192.0.2.1", 22)
    assert known.get("192.0.2.1", 22) is None
    assert known.get("192.0.2.1", 2222) == GOOD


@pytest.fixture
def emulated(tmp_path, monkeypatch):
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    return load(paths.repository_root() / "inventory" / "emulated")


@pytest.fixture
def example(tmp_path, monkeypatch):
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    return load(paths.repository_root() / "inventory" / "example")


def test_admin_key_is_made_once_and_private(emulated):
    line = first_contact.ensure_admin_key(emulated)
    assert line.startswith("ssh-ed25519 ")
    assert line.endswith(" hedgerow-admin@meadow")
    assert stat.S_IMODE(emulated.ssh_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(emulated.ssh_key.parent.stat().st_mode) == 0o700
    assert first_contact.ensure_admin_key(emulated) == line
    shown = subprocess.run(
        ["ssh-keygen", "-y", "-f", str(emulated.ssh_key)], capture_output=True, text=True, check=True
    ).stdout
    assert shown.split()[:2] == line.split()[:2]


def test_a_lost_public_half_is_made_again(emulated):
    line = first_contact.ensure_admin_key(emulated)
    emulated.ssh_key.with_name("id_ed25519.pub").unlink()
    assert first_contact.ensure_admin_key(emulated) == line


def test_an_emulated_host_tells_its_key_on_its_console(emulated):
    host = emulated.hosts["pi-orchard-1"]
    with pytest.raises(UsageError, match="told no host key yet"):
        first_contact.told_out_of_band(emulated, host)
    file = paths.var_dir() / "emulator" / "meadow" / "pi-orchard-1" / "ssh_host_ed25519_key.pub"
    file.parent.mkdir(parents=True)
    file.write_text(f"ssh-ed25519 {GOOD.blob} root@pi-orchard-1\n")
    told = first_contact.told_out_of_band(emulated, host)
    assert told == Told(GOOD.fingerprint, str(file))


def test_a_real_host_is_told_of_in_the_inventory(example):
    host = example.hosts["pi-lower-1"]
    told = first_contact.told_out_of_band(example, host)
    assert told is not None
    assert told.fingerprint == host.vars["ssh_host_key_sha256"]


def test_first_login(emulated, example):
    assert first_contact.first_login(emulated, emulated.hosts["gw-orchard"]) == (
        "pi",
        paths.var_dir() / "emulator" / "meadow" / "first_contact_key",
    )
    assert first_contact.first_login(example, example.hosts["gw-lower"]) == ("pi", None)


def test_pin_writes_what_was_trusted_and_nothing_else(example, monkeypatch):
    host = example.hosts["pi-lower-1"]
    monkeypatch.setattr(first_contact, "scan", lambda *_: EVIL)
    with pytest.raises(RefusedError):
        first_contact.pin(example, host, accept_new=True)
    assert not example.known_hosts.exists()
    monkeypatch.setattr(first_contact, "told_out_of_band", lambda *_: Told(EVIL.fingerprint, "the console"))
    assert first_contact.pin(example, host) == (Verdict.PIN, EVIL)
    assert first_contact.pin(example, host) == (Verdict.KEEP, EVIL)


def test_scan_of_a_port_where_nobody_listens():
    with pytest.raises(NetworkError, match="no SSH server"):
        first_contact.scan("127.0.0.1", 1)


def test_bootstrap_key_is_found_from_the_checkout(example):
    host = example.hosts["gw-lower"]
    relative = replace(host, vars=host.vars | {"bootstrap_key": "keys/first"})
    assert first_contact.first_login(example, relative)[1] == paths.repository_root() / "keys/first"
    absolute = replace(host, vars=host.vars | {"bootstrap_key": "/keys/first"})
    assert first_contact.first_login(example, absolute)[1] == Path("/keys/first")
