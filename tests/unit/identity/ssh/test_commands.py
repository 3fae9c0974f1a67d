"""``hedgerow ssh`` as it is typed: from founding to a login, with the files and exit codes that it promises."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from hedgerow import inventory as inventories
from hedgerow import ssh as transport
from hedgerow.cli import cli
from hedgerow.errors import HedgerowError, RefusedError
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import Profile
from hedgerow.identity.ssh import keygen

Make = Callable[..., Any]


@pytest.fixture
def hedgerow(fleet_ca: FleetCA, inventory: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command on the test's inventory; its JSON where it prints any, else its text."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(inventories, "load", lambda _: inventory)
    fleet_ca.issue_client(Profile.OPERATOR, "jane")

    def run(*words: str) -> Any:
        result = CliRunner().invoke(cli, ["ssh", *words], standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        text = result.stdout
        return json.loads(text) if "--json" in words else text

    return run


@pytest.fixture
def founded(hedgerow: Make) -> Make:
    hedgerow("init")
    return hedgerow


def test_init_does_nothing_twice_and_trusts_the_host_ca(hedgerow: Make, inventory: Any) -> None:
    assert hedgerow("init", "--json")["changed"]
    again = hedgerow("init", "--json")
    assert not again["changed"]
    assert [key["state"] for key in again["keys"]] == ["current", "current"]
    assert inventory.host_authorities.read_text().startswith("@cert-authority *.meadow,")
    assert not hedgerow("known-hosts", "--json")["changed"]


def test_before_init_it_says_what_comes_first(hedgerow: Make) -> None:
    for words in (["show"], ["list"], ["sign", "--name", "jane", "--role", "viewer", "--all-sites"]):
        with pytest.raises(HedgerowError) as caught:
            hedgerow(*words)
        assert "hedgerow ssh init" in str(caught.value.next_step)


def test_signing_leaves_a_fresh_key_and_a_config_that_names_it(founded: Make, fleet_dir: Path) -> None:
    first = founded("sign", "--name", "jane", "--role", "operator", "--site", "upper", "--json")
    assert first["principals"] == ["operator@upper"]
    key, certificate = Path(first["key"]), Path(first["certificate"])
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700
    assert "operator@upper" in keygen.describe(certificate.read_text())
    assert "jump@upper" in keygen.describe(Path(first["jump"]).read_text())
    before = key.read_bytes()
    founded("sign", "--name", "jane", "--role", "operator", "--site", "upper", "--for", "30m")
    assert key.read_bytes() != before
    config = Path(founded("config", "--name", "jane", "--role", "operator", "--bastion", "--json")["config"])
    found = subprocess.run(
        ["ssh", "-G", "-F", str(config), "pi-upper-1"], capture_output=True, text=True, check=True
    ).stdout
    for line in (
        "user hedgerow-operator", f"identityfile {key}", f"certificatefile {certificate}", "proxyjump jump-upper",
        "hostkeyalias pi-upper-1.upper.meadow", "stricthostkeychecking true", "passwordauthentication no",
    ):  # fmt: skip
        assert line in found.splitlines(), line
    assert len(founded("list", "--json")) == 4
    assert "operator@upper" in founded("list")


def test_ones_own_key_is_certified_where_it_lies(founded: Make, pair: Make, tmp_path: Path) -> None:
    pair(tmp_path / "id_mine")
    before = (tmp_path / "id_mine").read_bytes()
    words = ["sign", "--name", "jane", "--role", "admin", "--hosts", "pi-upper-1", "--public-key"]
    found = founded(*words, str(tmp_path / "id_mine.pub"), "--json")
    assert found["certificate"] == str(tmp_path / "id_mine-cert.pub")
    assert found["principals"] == ["admin@pi-upper-1.upper"]
    assert (tmp_path / "id_mine").read_bytes() == before


def test_a_folder_of_the_operators_keeps_its_own_keys(founded: Make, pair: Make, tmp_path: Path) -> None:
    pair(tmp_path / "id_ed25519")
    before = (tmp_path / "id_ed25519").read_bytes()
    founded("sign", "--name", "jane", "--role", "viewer", "--all-sites", "-o", str(tmp_path))
    assert (tmp_path / "id_ed25519").read_bytes() == before
    assert (tmp_path / "hedgerow_ed25519").is_file()


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A real ssh-agent of the test's own."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("no ssh-agent: apt-get install openssh-client")
    socket = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    while not socket.exists():
        assert process.poll() is None
        os.sched_yield()
    yield
    process.terminate()
    process.wait(timeout=10)


def test_a_key_for_the_agent_is_on_no_disk(founded: Make, agent: None, fleet_dir: Path) -> None:
    found = founded("sign", "--name", "jane", "--role", "operator", "--all-sites", "--agent", "--json")
    assert not Path(found["key"]).exists()
    listed = subprocess.run(["ssh-add", "-L"], capture_output=True, text=True, check=True).stdout
    assert listed.split()[1] == Path(found["key"] + ".pub").read_text().split()[1]
    assert not [path for path in fleet_dir.rglob("*") if path.is_file() and b"OPENSSH PRIVATE" in path.read_bytes()
                and "ssh-ca" not in path.parts]  # fmt: skip


def test_without_an_agent_it_says_so(founded: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere")
    with pytest.raises(HedgerowError, match="agent did not take"):
        founded("sign", "--name", "jane", "--role", "operator", "--all-sites", "--agent")


def test_a_request_travels_as_a_file(founded: Make, fleet_dir: Path, pair: Make, tmp_path: Path) -> None:
    pair(tmp_path / "id")
    challenge = founded("challenge").strip()
    clients = fleet_dir / "ca" / "clients"
    asked = ["--challenge", challenge, "--certificate", str(clients / "jane.crt"), "--key", str(clients / "jane.key")]
    wanted = ["--role", "viewer", "--site", "orchard", "--public-key", str(tmp_path / "id.pub")]
    founded("request", *asked, *wanted, "-o", str(tmp_path / "request.json"))
    assert "PRIVATE" not in (tmp_path / "request.json").read_text()
    found = founded("sign", "--request", str(tmp_path / "request.json"), "-o", str(tmp_path / "out"), "--json")
    assert found["principals"] == ["viewer@orchard"]
    assert not (tmp_path / "out" / "hedgerow_ed25519").exists()
    with pytest.raises(RefusedError, match="challenge"):
        founded("sign", "--request", str(tmp_path / "request.json"), "-o", str(tmp_path / "out"))


@pytest.mark.parametrize(
    "words,text",
    [
        (["sign", "--role", "viewer", "--all-sites"], "who asks"),
        (["sign", "--name", "jane", "--all-sites"], "--role says"),
        (["sign", "--name", "jane", "--role", "viewer", "--all-sites", "--for", "1d"], "no life"),
        (["revoke", "--reason", "x"], "name one of"),
        (["revoke", "--reason", "x", "--host", "a", "--operator", "b"], "name one of"),
        (["config", "--role", "viewer"], "name the operator"),
        (["init", "--token", "user=x"], "not KIND=LIBRARY:LABEL"),
        (["sign", "--name", "../x", "--role", "viewer", "--all-sites"], "cannot name a client"),
    ],
)
def test_wrong_use_says_the_right_one(founded: Make, words: list[str], text: str) -> None:
    with pytest.raises(Exception, match=text):
        founded(*words)


def test_revoking_rotating_and_the_safe_are_told(founded: Make, tmp_path: Path, inventory: Any) -> None:
    founded("sign", "--name", "jane", "--role", "admin", "--all-sites")
    assert "2 certificates and 0 keys count no more" in founded("revoke", "--operator", "jane", "--reason", "stolen")
    assert "nothing was left" in founded("revoke", "--operator", "jane", "--reason", "stolen")
    assert founded("list", "--json") == []
    assert {line["state"] for line in founded("list", "--all", "--json")} == {"revoked"}
    for step in ("begin", "switch", "finish"):
        assert founded("rotate", step, "--kind", "host", "--json")["step"] == step
        count = inventory.host_authorities.read_text().count("@cert-authority ")
        assert count == {"begin": 2, "switch": 2, "finish": 1}[step]
    safe = tmp_path / "stick" / "key"
    words = ["--passphrase-file", os.environ[keygen.PASSPHRASE_FILE], "--reason", "first"]
    made = founded("break-glass", "make", "-o", str(safe), *words, "--json")
    assert made["fingerprint"] == founded("show", "--json")["break_glass"]
    assert "next: ansible-playbook playbooks/ssh_access.yml" in founded("break-glass", "retire", "--reason", "used")


def test_a_log_that_was_changed_does_not_hold(founded: Make, fleet_dir: Path) -> None:
    founded("sign", "--name", "jane", "--role", "admin", "--all-sites")
    assert founded("log", "--json")["holds"]
    path = fleet_dir / "ssh-ca" / "issued.jsonl"
    path.write_text(path.read_text().replace('"admin"', '"viewer"'))
    assert not founded("log", "--json")["holds"]


@pytest.mark.slow
def test_the_controllers_own_programs_take_certificate_and_host_ca(
    founded: Make, serve: Make, inventory: Any, pair: Make
) -> None:
    """``hedgerow.ssh`` and Ansible name key and known_hosts alone: the certificate lies beside, the CA stands in it."""
    pi = serve()
    pair(inventory.ssh_key)
    founded("known-hosts")
    assert all(line.startswith("@cert-authority ") for line in inventory.host_authorities.read_text().splitlines())
    with pytest.raises(HedgerowError, match="Permission denied"):
        transport.run(inventory, pi.host, "id -un", timeout_s=30)
    founded("sign", "--name", "jane", "--role", "admin", "--all-sites", "--public-key", f"{inventory.ssh_key}.pub")
    assert transport.run(inventory, pi.host, "sudo -n id -un", timeout_s=30).stdout == "root\n"
    elsewhere = msgspec.structs.replace(pi.host, address="127.0.0.9")
    with pytest.raises(HedgerowError):
        transport.run(inventory, elsewhere, "id", timeout_s=30)
