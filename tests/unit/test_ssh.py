"""Logging in: options that cannot be loosened, errors by who is at fault."""

from __future__ import annotations

import os
import stat

import pytest

from hedgerow import paths, ssh
from hedgerow.errors import NetworkError, UsageError
from hedgerow.inventory import load


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    return load(paths.repository_root() / "inventory" / "emulated")


@pytest.fixture
def contacted(fleet):
    fleet.ssh_key.parent.mkdir(parents=True)
    fleet.ssh_key.touch()
    fleet.known_hosts.touch()
    return fleet


@pytest.fixture
def fake_ssh(tmp_path, monkeypatch):
    """A program of that name, first on PATH."""

    def make(script):
        program = tmp_path / "bin" / "ssh"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)

    return make


def test_only_pinned_hosts_and_the_fleets_key(fleet):
    words = ssh.command(fleet, fleet.hosts["pi-orchard-1"])
    assert "StrictHostKeyChecking=yes" in words
    assert f"UserKnownHostsFile={fleet.known_hosts}" in words
    assert words[words.index("-i") + 1] == str(fleet.ssh_key)
    assert words[-1] == "hedgerow-admin@10.77.0.11"


def test_before_first_contact(fleet):
    with pytest.raises(UsageError, match="no first contact yet") as caught:
        ssh.run(fleet, fleet.hosts["pi-orchard-1"], "true", timeout_s=5)
    assert "@first-contact/" in str(caught.value.next_step)


def test_the_remote_programs_failure_is_a_result(contacted, fake_ssh):
    fake_ssh("cat; echo sorry >&2; exit 3")
    done = ssh.run(contacted, contacted.hosts["pi-orchard-1"], "x", stdin=b"hello", timeout_s=5)
    assert (done.returncode, done.stdout, done.stderr) == (3, "hello", "sorry\n")


def test_no_login_is_the_networks_fault(contacted, fake_ssh):
    fake_ssh("echo 'Connection refused' >&2; exit 255")
    with pytest.raises(NetworkError, match="Connection refused") as caught:
        ssh.run(contacted, contacted.hosts["pi-orchard-1"], "x", timeout_s=5)
    assert "pi-orchard-1" in str(caught.value.where)


def test_time_is_bounded(contacted, fake_ssh):
    fake_ssh("exec sleep 30")
    with pytest.raises(NetworkError, match="no answer within 0 s"):
        ssh.run(contacted, contacted.hosts["pi-orchard-1"], "x", timeout_s=0.2)
