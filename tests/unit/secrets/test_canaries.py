"""Secrets that are planted for a whole run must turn up nowhere but where they belong.

What is searched: everything that a run prints at -vvv with --diff, in check mode and for real, the fleet's state on the
controller (journals, audit log), and command line and environment of every process meanwhile.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import watched

from hedgerow.backup.age_keys import Identity
from hedgerow.identity.ca import FleetCA

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
FLEET = "meadow-unit"

VAULTED = "canary-vaulted-41c7"
VAULT_PASSWORD = "canary-vault-password-8d02"
CA_PASSPHRASE = "canary-ca-passphrase-77e9"

PLAYBOOK = """
- hosts: all
  gather_facts: true
  tasks:
    - name: Place a file that holds the secret
      hedgerow_files:
        files:
          - content: "{{ webhook_secret }}"
            dest: "{{ target }}"
            owner: "{{ owner }}"
            group: "{{ group }}"
            mode: "0600"
    - name: Use it in a module of somebody else
      ansible.builtin.copy:
        content: "{{ webhook_secret }}"
        dest: "{{ target }}.copy"
        mode: "0600"
      no_log: true
    - name: Use it in a command, over standard input
      ansible.builtin.command:
        cmd: sha256sum
        stdin: "{{ webhook_secret }}"
      changed_when: false
      no_log: true
"""


@pytest.fixture
def secret_file(tmp_path):
    def make(name: str, text: str) -> Path:
        file = tmp_path / name
        file.write_text(f"{text}\n")
        file.chmod(0o600)
        return file

    return make


@pytest.fixture
def environment(tmp_path, secret_file, monkeypatch):
    found = {
        **os.environ,
        "HEDGEROW_VAR": str(tmp_path / "var"),
        "HEDGEROW_ROOT": str(ROOT),
        "HEDGEROW_CA_PASSPHRASE_FILE": str(secret_file("ca-passphrase", CA_PASSPHRASE)),
        "ANSIBLE_VAULT_PASSWORD_FILE": str(secret_file("vault-password", VAULT_PASSWORD)),
        "PYTHONPATH": str(ROOT / "src"),
    }
    for name in ("HEDGEROW_VAR", "HEDGEROW_CA_PASSPHRASE_FILE"):
        monkeypatch.setenv(name, found[name])
    return found


@pytest.fixture
def key_bytes(tmp_path, environment) -> bytes:
    """A line of the CA's own private key."""
    made, _ = FleetCA.init(tmp_path / "var" / "fleets" / FLEET, FLEET)
    return (made.folder / "ca.key").read_bytes().splitlines()[1]


@pytest.fixture
def age_key(environment, secret_file) -> str:
    """What SOPS decrypts with."""
    identity = Identity.generate()
    environment |= {
        "SOPS_AGE_KEY_FILE": str(secret_file("age-key", identity.text)),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    return identity.text


@pytest.fixture(params=["vault.yml", "vault.sops.yml"])
def inventory(request, tmp_path, environment, age_key) -> Path:
    """Its secrets encrypted by ansible-vault or by SOPS; a key that is Hedgerow's names one of the operator's own."""
    folder = tmp_path / "inventory"
    (folder / "group_vars" / "all").mkdir(parents=True)
    (folder / "hosts.yml").write_text("all: {hosts: {pi-1: }}\n")
    (folder / "group_vars" / "all" / "fleet.yml").write_text(
        f"fleet: {FLEET}\nansible_connection: local\nansible_python_interpreter: {sys.executable}\n"
        f"target: {tmp_path / 'placed'}\nowner: '{os.getuid()}'\ngroup: '{os.getgid()}'\n"
        "webhook_secret: '{{ vault_webhook }}'\n"
    )
    vault = folder / "group_vars" / "all" / request.param
    vault.write_text(f"vault_webhook: {VAULTED}\n")
    recipient = Identity(age_key).recipient
    command = [BIN / "ansible-vault", "encrypt"]
    if ".sops." in vault.name:
        command = [BIN / "sops", "encrypt", "--age", recipient, "--in-place"]
    subprocess.run([*command, vault], env=environment, check=True, capture_output=True)
    assert VAULTED not in vault.read_text()
    (tmp_path / "site.yml").write_text(PLAYBOOK)
    return folder


def play(tmp_path: Path, inventory: Path, environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [BIN / "ansible-playbook", "-i", inventory, tmp_path / "site.yml", "-vvv", "--diff", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-2000:]
    return output


@pytest.mark.slow
def test_a_run_keeps_what_it_was_told(tmp_path, inventory, environment, key_bytes, age_key):
    canaries = [each.encode() for each in (VAULTED, VAULT_PASSWORD, CA_PASSPHRASE, age_key)] + [key_bytes]
    with watched() as processes:
        output = play(tmp_path, inventory, environment, "--check") + play(tmp_path, inventory, environment)
    assert "Place a file that holds the secret" in output
    assert (tmp_path / "placed").read_text() == VAULTED  # it did arrive
    assert len(processes) > 3
    var = b"".join(
        path.read_bytes() for path in (tmp_path / "var").rglob("*") if path.is_file() and path.name != "ca.key"
    )
    assert b"run_started" in var
    for canary in canaries:
        assert canary not in output.encode()
        assert not any(canary in each for each in processes)
        assert canary not in var


@pytest.mark.slow
def test_commands_that_sign_keep_their_passphrase(tmp_path, environment):
    authority, _ = FleetCA.init(tmp_path / "var" / "fleets" / "meadow", "meadow")
    with watched() as processes:
        done = subprocess.run(
            [sys.executable, "-m", "hedgerow.cli", "ca", "issue", "--profile", "operator", "--name", "ada"],
            cwd=ROOT, env=environment, capture_output=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for file in (authority.folder / "ca.key", authority.folder / "clients" / "ada.key"):
        for canary in (CA_PASSPHRASE.encode(), file.read_bytes().splitlines()[1]):
            assert canary not in done.stdout + done.stderr
            assert not any(canary in each for each in processes)


def test_the_watch_sees_what_it_should(tmp_path):
    """A test that cannot fail is none: a secret in an argument and one in the environment are seen."""
    with watched() as processes:
        subprocess.run(["sleep", "0.3", "0.001"], env={"PLANTED": "canary-environment"}, check=True)
    assert any(b"canary-environment" in each for each in processes)
    assert any(b"sleep\x000.3\x000.001" in each for each in processes)
