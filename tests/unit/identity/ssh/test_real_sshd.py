"""Whom a real sshd lets in, as whom, and what they may do there: the hosts' files and the hardened configuration."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from hedgerow.identity.ssh import changing, keygen, roles
from hedgerow.identity.ssh.roles import SshRole

pytestmark = pytest.mark.slow

Make = Callable[..., Any]


# -- the matrix of roles -------------------------------------------------------


def test_an_operator_becomes_root_for_what_is_listed_and_nothing_else(serve: Make, log_in: Make) -> None:
    pi = serve()
    done = pi.ssh(log_in("jane", "operator"), "id -un; sudo -n /usr/bin/id -u; sudo -n /usr/bin/id -g; sudo -n /bin/sh")
    assert done.stdout.split() == ["hedgerow-operator", "0"], done.stderr + pi.said()
    assert done.stderr.count("password is required") == 2


def test_an_admin_is_root_where_asked(serve: Make, log_in: Make) -> None:
    pi = serve()
    done = pi.ssh(log_in("jane", "admin"), "id -un; sudo -n id -un")
    assert done.stdout.split() == ["hedgerow-admin", "root"], done.stderr + pi.said()


def test_a_viewer_reads_and_gets_no_shell(serve: Make, log_in: Make) -> None:
    pi = serve()
    vic = log_in("vic", "viewer")
    assert "report " in pi.ssh(vic, "help").stdout, pi.said()
    for attempt in (
        "id",
        "sh -c id",
        "journal ;id",
        "journal --output=cat /etc/shadow",
        "status hedgerow-x $(id)",
    ):
        done = pi.ssh(vic, attempt)
        assert done.returncode == 2, attempt
        assert "not for viewers" in done.stderr
        assert "uid=" not in done.stdout + done.stderr
    login = pi.ssh(vic, "")
    assert "You may read this host" in login.stdout
    assert "No such file" not in login.stderr


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_a_role_opens_its_own_account_alone(serve: Make, log_in: Make, role: str) -> None:
    pi = serve()
    login = log_in("jane", role)
    own = roles.account(SshRole(role), "hedgerow-admin")
    found = {
        account for account in (*ACCOUNTS, "root") if "Permission denied" not in pi.ssh(login, user=account).stderr
    }
    assert found == {own}


ACCOUNTS = ("hedgerow-viewer", "hedgerow-operator", "hedgerow-admin", "hedgerow-jump", "hedgerow-breakglass")


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_nobody_forwards_through_a_pi(serve: Make, log_in: Make, role: str) -> None:
    pi = serve(tcp_forwarding="yes")  # even where sshd would allow it
    login = log_in("jane", role)
    through = pi.ssh(login, "", "-W", f"127.0.0.1:{pi.server.port}")
    assert "administratively prohibited" in through.stderr
    back = pi.ssh(login, "help", "-o", "ExitOnForwardFailure=yes", "-R", "127.0.0.1:0:127.0.0.1:1")
    assert back.returncode == 255
    assert "remote port forwarding failed" in back.stderr


# -- what does not count -------------------------------------------------------


def refused(done: Any) -> bool:
    return done.returncode == 255 and "Permission denied (publickey)" in done.stderr and done.stdout == ""


def test_a_certificate_that_has_ended_is_refused(serve: Make, log_in: Make, now: dt.datetime) -> None:
    pi = serve()
    ended = log_in("jane", "operator", at=now - dt.timedelta(minutes=3), seconds=60)
    assert refused(pi.ssh(ended))
    assert "Certificate invalid: expired" in pi.said()


def test_a_certificate_that_has_not_begun_is_refused(serve: Make, log_in: Make, now: dt.datetime) -> None:
    """As a host sees it whose clock is behind by more than the certificate was dated back (an hour)."""
    pi = serve()
    assert refused(pi.ssh(log_in("jane", "operator", at=now + dt.timedelta(hours=2))))
    assert "Certificate invalid: not yet valid" in pi.said()
    assert pi.ssh(log_in("jane", "operator", at=now + dt.timedelta(minutes=50))).stdout == "in\n"


def test_a_certificate_for_another_site_is_refused(serve: Make, log_in: Make) -> None:
    pi = serve()
    assert refused(pi.ssh(log_in("jane", "operator", sites=("upper",))))
    assert "does not contain an authorized principal" in pi.said() or "not listed" in pi.said()


def test_a_certificate_for_one_host_opens_that_host_alone(serve: Make, log_in: Make) -> None:
    pi, other = serve(), serve("pi-upper-1")
    login = log_in("jane", "operator", sites=(), hosts=("pi-orchard-1",))
    assert pi.ssh(login).stdout == "in\n", pi.said()
    assert refused(other.ssh(login))


def test_a_revoked_certificate_is_refused_as_soon_as_the_list_is_there(
    serve: Make, log_in: Make, authority: Any, now: dt.datetime
) -> None:
    pi = serve()
    stolen, other = log_in("jane", "operator"), log_in("vic", "viewer")
    assert pi.ssh(stolen).stdout == "in\n"
    changing.revoke(authority, "operator", "jane", reason="laptop stolen", now=now)
    pi.place()  # no reload: sshd reads the list at each login
    assert refused(pi.ssh(stolen))
    assert pi.ssh(other, "help").returncode == 0
    assert "revoked" in pi.said()


def test_a_key_without_a_certificate_is_refused(serve: Make, log_in: Make) -> None:
    pi = serve()
    jane = log_in("jane", "admin")
    jane.certificate.write_text("")
    assert refused(pi.ssh(jane))


def test_a_certificate_of_another_authority_is_refused(
    serve: Make, log_in: Make, tmp_path: Any, fleet_dir: Any, now: dt.datetime
) -> None:
    pi = serve()
    jane = log_in("jane", "admin")
    secret = keygen.passphrase_file()
    keygen.generate(tmp_path / "other-ca", "other", secret)
    forged = keygen.Certificate(
        public=" ".join(jane.key.with_name(f"{jane.key.name}.pub").read_text().split()[:2]),
        host=False,
        key_id="jane/admin/meadow",
        principals=["admin@orchard"],
        serial=1,
        valid_after=int(now.timestamp()) - 60,
        valid_before=int(now.timestamp()) + 600,
        options=["clear", "permit-pty"],
    )
    jane.certificate.write_text(keygen.sign(keygen.Key(tmp_path / "other-ca"), forged, secret=secret))
    assert refused(pi.ssh(jane))


def test_passwords_are_refused(serve: Make, log_in: Make, tmp_path: Any) -> None:
    pi = serve()
    script = tmp_path / "askpass"
    script.write_text("#!/bin/sh\necho 'let me in'\n")
    script.chmod(0o700)
    jane = log_in("jane", "admin")
    words = [
        "ssh",
        "-F",
        str(pi.config(jane)),
        "-v",
        "-o",
        "PubkeyAuthentication=no",
        "-o",
        "PasswordAuthentication=yes",
    ]
    words += ["-o", "KbdInteractiveAuthentication=yes", "-o", "PreferredAuthentications=password,keyboard-interactive"]
    done = subprocess.run(
        [*words, pi.host.name, "id"],
        env=os.environ | {"SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert refused(done)
    assert "Authentications that can continue: publickey" in done.stderr


def test_a_certificate_counts_from_its_addresses_alone(serve: Make, log_in: Make) -> None:
    pi = serve()
    assert pi.ssh(log_in("jane", "operator", source=("127.0.0.1",))).stdout == "in\n", pi.said()
    assert refused(pi.ssh(log_in("jane", "operator", source=("10.9.8.7",))))


def test_a_viewers_certificate_without_its_command_is_held_to_it_by_the_host(
    serve: Make, log_in: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pi = serve()
    rule = roles.RULES[SshRole.VIEWER]
    careless = roles.Rule(rule.account, None, rule.extensions, rule.life)
    monkeypatch.setitem(roles.RULES, SshRole.VIEWER, careless)  # type: ignore[arg-type] # the table is a dictionary
    done = pi.ssh(log_in("vic", "viewer"), "id")
    assert "uid=" not in done.stdout
    assert "not for viewers" in done.stderr


# -- hosts ---------------------------------------------------------------------


def test_a_host_is_believed_by_its_certificate_and_nothing_is_learned(serve: Make, log_in: Make) -> None:
    pi = serve()
    jane = log_in("jane", "operator")
    done = pi.ssh(jane, "echo in", "-v")
    assert done.stdout == "in\n", done.stderr
    assert "matches CA" in done.stderr or "Found CA key" in done.stderr
    known = (pi.server.folder / "known_hosts").read_text()
    assert all(line.startswith("@cert-authority ") for line in known.splitlines())


def test_another_hosts_certificate_is_not_taken_for_this_one(serve: Make, log_in: Make) -> None:
    pi, upper = serve(), serve("pi-upper-1")
    jane = log_in("jane", "operator")
    # Whoever took pi-upper-1 answers at the address of pi-orchard-1.
    moved = msgspec.structs.replace(pi.host, address=upper.host.address, vars=upper.host.vars)
    pi.inventory.hosts["pi-orchard-1"] = moved
    done = pi.ssh(jane)
    assert done.returncode == 255
    assert "name is not a listed principal" in done.stderr.lower()


def test_a_host_without_a_certificate_is_not_believed(serve: Make, log_in: Make) -> None:
    pi = serve(host_certificate=None)
    done = pi.ssh(log_in("jane", "operator"))
    assert done.returncode == 255
    assert "no matching host key type found" in done.stderr


def test_a_host_whose_certificate_has_ended_is_not_believed(serve: Make, log_in: Make, now: dt.datetime) -> None:
    pi = serve(certified_at=now - dt.timedelta(days=61))
    done = pi.ssh(log_in("jane", "operator"))
    assert done.returncode == 255
    assert "expired" in done.stderr


def test_a_revoked_host_is_not_believed(serve: Make, log_in: Make, authority: Any, now: dt.datetime) -> None:
    pi = serve()
    changing.revoke(authority, "host", "pi-orchard-1", reason="board stolen", now=now)
    done = pi.ssh(log_in("jane", "operator"))
    assert done.returncode == 255
    assert "revoked" in done.stderr


def test_both_cas_rotate_and_nobody_is_locked_out_between(
    serve: Make, log_in: Make, authority: Any, now: dt.datetime
) -> None:
    pi = serve()
    old = log_in("jane", "operator")
    for kind in ("user", "host"):
        changing.rotate(authority, kind, "begin", now=now)
    pi.place()
    assert pi.ssh(old).stdout == "in\n"
    for kind in ("user", "host"):
        changing.rotate(authority, kind, "switch", now=now)
    new = log_in("jane", "operator")
    assert [pi.ssh(login).stdout for login in (old, new)] == ["in\n", "in\n"], pi.said()
    changing.rotate(authority, "user", "finish", now=now, force=True)
    pi.place()
    assert refused(pi.ssh(old))
    assert pi.ssh(new).stdout == "in\n"


# -- the bastion ---------------------------------------------------------------


def test_a_jump_goes_through_the_gateway_to_its_pis_and_nowhere_else(serve: Make, log_in: Make) -> None:
    pi = serve()
    gateway = serve("gw-orchard")
    for role in ("viewer", "operator", "admin"):
        done = pi.ssh(log_in("jane", role), "help" if role == "viewer" else "echo in", bastion=True)
        assert done.returncode == 0, done.stderr + gateway.said() + pi.said()
    assert "hedgerow-jump" in gateway.said()
    jane = log_in("jane", "operator")
    config = str(gateway.config(jane, bastion=True))
    elsewhere = subprocess.run(
        ["ssh", "-F", config, "-o", "BatchMode=yes", "-W", f"127.0.0.2:{gateway.server.port}", "jump-orchard"],
        capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "administratively prohibited" in elsewhere.stderr
    shell = subprocess.run(
        ["ssh", "-F", config, "-o", "BatchMode=yes", "jump-orchard", "id"],
        capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert shell.returncode != 0
    assert "uid=" not in shell.stdout


# -- the key in the safe -------------------------------------------------------


def test_the_key_in_the_safe_opens_when_everything_else_is_gone(
    serve: Make, log_in: Make, authority: Any, tmp_path: Any, now: dt.datetime
) -> None:
    pi = serve()
    safe = tmp_path / "usb" / "break-glass"
    changing.make_break_glass(authority, safe, keygen.passphrase_file(), reason="first", now=now)
    pi.place()
    # The CA's list is gone, and the clock says nothing: only the key counts.
    (pi.server.etc / "user_ca.pub").write_text("")
    assert refused(pi.ssh(log_in("jane", "admin")))
    opened = tmp_path / "opened"
    opened.write_bytes(safe.read_bytes())
    opened.chmod(0o600)
    secret = os.environ[keygen.PASSPHRASE_FILE]
    script = tmp_path / "askpass"
    script.write_text(f"#!/bin/sh\ncat {secret}\n")
    script.chmod(0o700)

    def come_in(user: str = "hedgerow-breakglass") -> Any:
        words = ["ssh", "-F", "/dev/null", "-i", str(opened), "-o", "IdentitiesOnly=yes", "-p", str(pi.server.port)]
        words += ["-o", f"UserKnownHostsFile={pi.server.folder}/known_hosts", "-o", "GlobalKnownHostsFile=/dev/null"]
        words += ["-o", "PreferredAuthentications=publickey", "-o", "StrictHostKeyChecking=yes"]
        words += ["-o", "HostKeyAlias=pi-orchard-1.orchard.meadow"]
        return subprocess.run(
            [*words, f"{user}@127.0.0.1", "sudo -n id -un"],
            env=os.environ | {"SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    assert come_in().stdout == "root\n", come_in().stderr + pi.said()
    assert refused(come_in("hedgerow-admin"))
    changing.retire_break_glass(authority, reason="used", now=now)
    pi.place()
    assert refused(come_in())
