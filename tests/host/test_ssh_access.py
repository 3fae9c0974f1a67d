"""What role `ssh_access` promises of a converged host. Whom sshd lets in is shown by `tests/unit/identity/ssh`."""

from __future__ import annotations

import pytest

from hedgerow.identity.ssh import known_hosts

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

ETC = "/etc/ssh/hedgerow"


@pytest.fixture(scope="module", autouse=True)
def _on(host):
    if not host.file(ETC).exists:
        pytest.skip("ssh_access is off on this host")


def test_what_sshd_reads_is_roots_alone(host):
    found = host.root(f"find {ETC} -printf '%m %u:%g %p\\n'").splitlines()
    assert {line.rsplit(" ", 1)[0] for line in found} == {"755 root:root", "644 root:root"}


@pytest.mark.parametrize("user", ["hedgerow-viewer", "hedgerow-operator", "hedgerow-breakglass"])
def test_sshd_reads_it_for_every_account(host, user):
    shown = host.root(f"/usr/sbin/sshd -T -C user={user},host=x,addr=192.0.2.1")
    effective = dict(line.split(" ", 1) for line in shown.splitlines() if " " in line)
    assert effective["trustedusercakeys"] == f"{ETC}/user_ca.pub"
    assert effective["revokedkeys"] == f"{ETC}/revoked.krl"
    assert effective["authorizedprincipalsfile"] == f"{ETC}/principals/%u"
    assert effective["authorizedkeysfile"] == f"{ETC}/keys/%u"
    assert effective["passwordauthentication"] == "no"


def test_accounts_have_no_password_and_no_home_to_write_in(host):
    for user in ("hedgerow-viewer", "hedgerow-operator", "hedgerow-breakglass"):
        assert host.root(f"getent shadow {user}").split(":")[1] == "*"
        assert host.root(f"getent passwd {user}").split(":")[5] == "/"


def test_the_host_has_a_certificate_for_its_names(host):
    said = host.root(f"ssh-keygen -L -f {ETC}/ssh_host_ed25519_key-cert.pub")
    assert "host certificate" in said
    assert known_hosts.alias(host.entry, host.fleet.fleet) in said
    assert host.entry.address in said


def test_sudo_takes_the_rules(host):
    assert "parsed OK" in host.root("visudo -c")
    listed = host.root("sudo -l -U hedgerow-operator")
    assert "/usr/bin/systemctl restart hedgerow-server.service" in listed
    assert "ALL : ALL" not in listed
    assert "not allowed" in host.root("sudo -l -U hedgerow-viewer")


def test_a_viewer_reads_the_journal(host):
    run = "runuser -u hedgerow-viewer -- env SSH_ORIGINAL_COMMAND='journal ssh -n 5'"
    assert "not for viewers" not in host.root(f"{run} /usr/bin/python3 -I /usr/local/lib/hedgerow/ssh_viewer.py")
