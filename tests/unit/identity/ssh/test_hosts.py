"""A host's certificate: when it is signed anew, what is refused, and what a host does with a wrong one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import paramiko
import pytest

from hedgerow import first_contact
from hedgerow.errors import RefusedError
from hedgerow.identity.ssh import changing, client_config, host_side, hosts, known_hosts
from hedgerow.identity.ssh.roles import SshRole

Make = Callable[..., Any]
DAY = dt.timedelta(days=1)


@pytest.fixture
def certify(authority: Any, inventory: Any, pair: Make, tmp_path: Path, now: dt.datetime) -> Make:
    """Certify ``pi-orchard-1``, whose /etc/ssh is a folder of the test."""
    pair(tmp_path / host_side.KEY)
    known = first_contact.KnownHosts(tmp_path / "ssh" / "known_hosts")

    def call(function: str, **arguments: Any) -> Any:
        return getattr(host_side, function)(**arguments)

    def run(host: Any = None, *, at: dt.datetime = now, **options: Any) -> hosts.Outcome:
        places = {"directory": str(tmp_path), "certificate": str(tmp_path / "cert.pub")}
        host = host or inventory.hosts["pi-orchard-1"]
        return hosts.certify(call, authority, host, known=options.pop("known", known), now=at, **places, **options)

    return run


def test_it_is_signed_once_and_renewed_with_a_third_left(certify: Make, now: dt.datetime) -> None:
    assert certify().reason == "there is no certificate yet"
    assert certify().reason is None
    assert certify(at=now + 39 * DAY).reason is None
    assert "less than a third" in str(certify(at=now + 41 * DAY).reason)
    assert certify(force=True).reason == "asked to renew"


def test_an_expired_one_is_renewed(certify: Make, now: dt.datetime) -> None:
    certify()
    assert "expired" in str(certify(at=now + 61 * DAY).reason)


def test_check_mode_signs_nothing(certify: Make, authority: Any, tmp_path: Path) -> None:
    assert certify(check=True).reason == "there is no certificate yet"
    assert not (tmp_path / "cert.pub").exists()
    assert authority.log.verify().entries == 2  # the two keys that it was founded with


@pytest.mark.parametrize("change", [{"address": "10.0.0.9"}, {"site": "upper"}])
def test_another_name_is_another_certificate(certify: Make, inventory: Any, change: dict[str, str]) -> None:
    certify()
    moved = msgspec.structs.replace(inventory.hosts["pi-orchard-1"], **change)
    assert certify(moved).reason == "the host's names changed"


def test_a_new_key_of_the_ca_signs_at_the_next_converge(certify: Make, authority: Any, now: dt.datetime) -> None:
    certify()
    changing.rotate(authority, "host", "begin", now=now)
    assert certify().reason is None
    changing.rotate(authority, "host", "switch", now=now)
    assert certify().reason == "another key of the host CA signs now"
    changing.rotate(authority, "host", "finish", now=now)


def test_a_new_host_key_or_a_damaged_certificate_is_mended(certify: Make, pair: Make, tmp_path: Path) -> None:
    certify()
    pair(tmp_path / host_side.KEY)
    assert certify().reason == "the certificate belongs to another key"
    (tmp_path / "cert.pub").write_bytes(b"\xff\x00 torn")
    assert certify().reason == "there is no certificate yet"


def test_a_revoked_certificate_is_not_renewed_for_the_same_key(
    certify: Make, authority: Any, pair: Make, tmp_path: Path, now: dt.datetime
) -> None:
    certify()
    changing.revoke(authority, "host", "pi-orchard-1", reason="stolen", now=now)
    with pytest.raises(RefusedError, match="it was revoked"):
        certify()
    pair(tmp_path / host_side.KEY)
    assert certify().reason == "the certificate belongs to another key"


def test_who_shows_another_key_than_the_pinned_one_gets_nothing(
    certify: Make, inventory: Any, pair: Make, tmp_path: Path
) -> None:
    known = first_contact.KnownHosts(tmp_path / "ssh" / "known_hosts")
    host = inventory.hosts["pi-orchard-1"]
    key = first_contact.HostKey.parse(pair(tmp_path / "other"))
    assert key is not None
    known.put(host.address, host.port, key)
    with pytest.raises(RefusedError, match="is pinned"):
        certify(known=known)
    assert not (tmp_path / "cert.pub").exists()


def test_a_host_keeps_its_certificate_when_the_new_one_is_wrong(
    *, certify: Make, authority: Any, inventory: Any, pair: Make, tmp_path: Path, now: dt.datetime
) -> None:
    certify()
    before = (tmp_path / "cert.pub").read_text()
    foreign = authority.sign_host(inventory.hosts["pi-upper-1"], pair(tmp_path / "other"), now=now)
    for text in (foreign, "garbage"):
        with pytest.raises(host_side.HostSideError, match="not for this host's key"):
            host_side.install(directory=str(tmp_path), certificate=str(tmp_path / "cert.pub"), text=text)
    assert (tmp_path / "cert.pub").read_text() == before
    assert not list(tmp_path.glob(".cert.pub*"))


def test_a_host_keeps_its_certificate_when_the_disk_is_full(
    certify: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certify()
    before = (tmp_path / "cert.pub").read_text()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(host_side.os, "fsync", full)
    with pytest.raises(host_side.HostSideError, match="No space left"):
        host_side.install(directory=str(tmp_path), certificate=str(tmp_path / "cert.pub"), text=before.strip())
    assert (tmp_path / "cert.pub").read_text() == before
    assert not list(tmp_path.glob(".cert.pub*"))


def test_a_host_without_a_key_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(host_side.HostSideError) as caught:
        host_side.status(directory=str(tmp_path), certificate="/nowhere")
    assert "dpkg-reconfigure" in str(caught.value.next_step)


# -- what clients believe ------------------------------------------------------


def test_pins_and_authorities_are_two_files_that_every_reader_can_read(
    authority: Any, inventory: Any, pair: Make, tmp_path: Path
) -> None:
    """pyinfra's SSH library reads pins alone, and stops at a line of an authority."""
    key = first_contact.HostKey.parse(pair(tmp_path / "k"))
    assert key is not None
    path = tmp_path / "ssh" / "known_hosts_ca"
    lines = known_hosts.lines(inventory, authority.trusted("host"))
    assert known_hosts.write(path, lines)
    assert not known_hosts.write(path, lines)
    known = first_contact.KnownHosts(tmp_path / "ssh" / "known_hosts")
    known.put("10.0.0.5", 22, key)
    assert path.read_text().count("@cert-authority ") == 1
    assert "@cert-authority" not in known.path.read_text()
    assert paramiko.HostKeys(str(known.path)).lookup("10.0.0.5") is not None


def test_other_ports_are_named_as_ssh_looks_for_them(authority: Any, inventory: Any) -> None:
    inventory.hosts["pi-orchard-1"].vars["ansible_port"] = 2222
    line = known_hosts.lines(inventory, authority.trusted("host"))[0]
    patterns = line.split()[1].split(",")
    assert "*.meadow" in patterns
    assert {"[127.0.0.1]:2222", "[pi-orchard-1.orchard.meadow]:2222", "127.0.0.2"} <= set(patterns)


def test_an_ssh_config_loosens_nothing(inventory: Any, tmp_path: Path) -> None:
    files = client_config.Files(*[tmp_path / name for name in ("k", "c", "j", "known", "krl")])
    text = client_config.render(inventory, SshRole.OPERATOR, files, bastion=True)
    assert text.count("ProxyJump jump-orchard") == 1
    for line in ("StrictHostKeyChecking yes", "IdentitiesOnly yes", "ForwardAgent no", "UpdateHostKeys no"):
        assert line in text
    assert "ssh-ed25519-cert-v01@openssh.com" in text
    bare = msgspec.structs.replace(inventory, groups={**inventory.groups, "gateways": ("gw-upper",)})
    with pytest.raises(Exception, match="site orchard has no gateway"):
        client_config.render(bare, SshRole.OPERATOR, files, bastion=True)
