"""Secrets of an inventory: what is encrypted is taken for it, and no command of Hedgerow's repeats any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hedgerow.backup.age_keys import Identity
from hedgerow.errors import UsageError
from hedgerow.inventory import files, source
from hedgerow.inventory.checks import check
from hedgerow.inventory.secrecy import HIDDEN

BIN = Path(sys.executable).parent
CANARY = "canary-inventory-93b1"
SECRETS = f"vault_webhook: {CANARY}\nansible_become_password: {CANARY}\n"


@pytest.fixture
def vault_password(tmp_path, monkeypatch) -> Path:
    file = tmp_path / "password"
    file.write_text("a password\n")
    file.chmod(0o600)
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(file))
    return file


def vault(file: Path) -> None:
    """Encrypt it as a whole."""
    subprocess.run([BIN / "ansible-vault", "encrypt", file], check=True, capture_output=True)


def sops(file: Path) -> None:
    """Encrypt its values, for nobody in particular: no test here decrypts them."""
    recipient = Identity.generate().recipient
    subprocess.run([BIN / "sops", "encrypt", "--age", recipient, "--in-place", file], check=True, capture_output=True)


def test_no_command_sees_what_ansible_decrypts_for_it(copy, vault_password):
    copy.write("group_vars/all/vault.yml", SECRETS)
    vault(copy.path / "group_vars/all/vault.yml")
    assert check(copy.path) == []
    host = source.load(copy.path).hosts["pi-orchard-1"]
    assert (host.vars["vault_webhook"], host.vars["ansible_become_password"]) == (HIDDEN, HIDDEN)
    assert CANARY not in str(source.list_hosts(copy.path))


def test_a_secret_may_lie_deep_and_be_no_text(copy, vault_password):
    cameras = f"vision_cameras: [{{name: door, password: {CANARY}}}]\n"
    copy.write("group_vars/all/vault.yml", f"vault_tokens: {{a: {CANARY}}}\nvault_pin: 930193\n{cameras}")
    vault(copy.path / "group_vars/all/vault.yml")
    variables = source.load(copy.path).hosts["pi-orchard-1"].vars
    assert (variables["vault_tokens"], variables["vault_pin"]) == (HIDDEN, HIDDEN)
    assert variables["vision_cameras"] == [{"name": "door", "password": HIDDEN}]


def test_an_own_variable_of_another_name_is_refused_without_its_value(copy, vault_password):
    copy.write("group_vars/all/vault.yml", f"webhook: {CANARY}\nboard_memory_mb: {CANARY}\n")
    vault(copy.path / "group_vars/all/vault.yml")
    problems = check(copy.path)
    assert {problem.key for problem in problems} == {"webhook", "board_memory_mb"}
    assert {problem.hint for problem in problems if problem.key == "webhook"} == {
        "begin the names of your own variables with vault_"
    }
    assert CANARY not in str(problems)


def test_a_vault_without_its_password_says_what_to_name(copy, vault_password, monkeypatch):
    copy.write("group_vars/all/vault.yml", SECRETS)
    vault(copy.path / "group_vars/all/vault.yml")
    monkeypatch.delenv("ANSIBLE_VAULT_PASSWORD_FILE")
    with pytest.raises(UsageError) as caught:
        source.list_hosts(copy.path)
    assert "ANSIBLE_VAULT_PASSWORD_FILE" in (caught.value.next_step or "")
    vault_password.write_text("another\n")
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(vault_password))
    with pytest.raises(UsageError) as caught:
        source.list_hosts(copy.path)
    assert "ANSIBLE_VAULT_PASSWORD_FILE" in (caught.value.next_step or "")


@pytest.mark.parametrize("file", ["group_vars/all/vault.sops.yml", "group_vars/pis.sops.yml"])
def test_sops_is_never_asked_to_decrypt(copy, file, monkeypatch):
    copy.write(file, SECRETS)
    sops(copy.path / file)
    monkeypatch.setenv("PATH", "/nowhere")  # no sops here
    assert check(copy.path) == []
    host = source.load(copy.path).hosts["pi-orchard-1"]
    assert "sops" not in host.vars
    assert CANARY not in str(host.vars)


def test_a_value_that_hedgerow_reads_may_not_be_encrypted_by_sops(copy, check_files):
    copy.write("group_vars/all/vault.sops.yml", "serving_model: assistant\n")
    sops(copy.path / "group_vars/all/vault.sops.yml")
    (problem,) = check_files()
    assert (problem.key, problem.allowed) == ("serving_model", "a literal value")
    assert "is encrypted" in problem.what


def test_a_key_of_sops_that_is_mistyped_is_seen(copy, check_files):
    copy.write("group_vars/all/vault.sops.yml", "ansible_become_pasword: x\n")
    sops(copy.path / "group_vars/all/vault.sops.yml")
    (problem,) = check_files()
    assert (problem.key, problem.hint) == ("ansible_become_pasword", "did you mean ansible_become_password?")


def test_a_file_that_waits_to_be_encrypted_is_told(copy, check_files):
    copy.write("group_vars/all/vault.sops.yml", f"vault_webhook: {CANARY}\n")
    (problem,) = check_files()
    assert "not encrypted: sops encrypt --in-place" in problem.what
    assert CANARY not in str(problem)


def test_an_own_secret_in_the_clear_is_told(copy, check_files):
    copy.write("group_vars/all/mine.yml", f"vault_webhook: {CANARY}\n")
    (problem,) = check_files()
    assert "secret in the clear" in problem.what
    assert CANARY not in str(problem)


def test_unknown_keys_beside_own_ones_are_still_told(copy, check_files):
    copy.write("group_vars/all/mine.yml", 'vault_webhook: \'{{ lookup("pipe", "pass webhook") }}\'\nwebhok: x\n')
    (problem,) = check_files()
    assert problem.key == "webhok"


def test_what_sops_leaves_readable_is_no_secret_of_its(tmp_path):
    """It encrypts no empty value, and no key."""
    file = tmp_path / "group_vars/all/vault.sops.yml"
    file.parent.mkdir(parents=True)
    file.write_text("vault_a: {b: [x], c: ''}\n")
    sops(file)
    (document,) = files.read(tmp_path).documents
    assert isinstance(document.data["vault_a"]["b"][0], files.Vaulted)
    assert document.data["vault_a"]["c"] == ""
    assert list(document.data) == ["vault_a"]
