"""A fleet's folder that the real commands made, and ``hedgerow backup`` as an operator types it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from hedgerow import audit, paths
from hedgerow import inventory as inventories
from hedgerow.commands.backup import backup
from hedgerow.commands.ca import ca
from hedgerow.commands.registry import registry
from hedgerow.registry.manifest import GoldenText, Message
from hedgerow.rollout import lease
from hedgerow.rollout.events import HostActivated, Opened
from hedgerow.rollout.journal import Journal, timestamp
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy

FLEET = "meadow-unit"
KNOWN_HOSTS = "10.77.0.11 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBpinnedpinnedpinnedpinnedpinnedpinnedpinnedp\n"


def typed(group, *arguments: object, code: int = 0):
    """Type a command; its JSON. Errors come out as they are raised."""
    result = CliRunner().invoke(group, [str(each) for each in arguments] + ["--json"], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    assert int(result.return_value or 0) == code, result.output
    return json.loads(result.stdout)


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    file = tmp_path / "passphrase"
    file.write_text("correct horse battery\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    folder = tmp_path / "inventory"
    (folder / "group_vars").mkdir(parents=True)
    (folder / "hosts.yml").write_text("all: {hosts: {pi-1: }}\n")
    (folder / "group_vars" / "all.yml").write_text(f"fleet: {FLEET}\n")
    return folder


@pytest.fixture
def fleet(tmp_path, inventory, passphrase, monkeypatch) -> Path:
    """The folder of a fleet with a CA, a stage of the registry, pins, a rollout and an audit log."""
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("HEDGEROW_CA_PASSPHRASE_FILE", str(passphrase))
    # Reading an inventory takes Ansible a second; which fleet it names is all that counts here.
    monkeypatch.setattr(inventories, "load", lambda _path: SimpleNamespace(fleet=FLEET, hosts={}))
    folder = paths.fleet_dir(FLEET)
    typed(ca, "init")
    typed(ca, "issue", "--profile", "operator", "--name", "ada")
    for name in ("dan", "fay"):
        typed(registry, "add-key", name, "--stage", "dev", "--passphrase-file", passphrase)
    typed(registry, "init", "--stage", "dev", "--passphrase-file", passphrase)
    for purpose, name in (("build", "dan"), ("approve", "fay")):
        typed(registry, "delegate", purpose, "model", "--by", name, "--stage", "dev", "--passphrase-file", passphrase)
    (folder / "ssh").mkdir()
    (folder / "ssh" / "known_hosts").write_text(KNOWN_HOSTS)
    rollout = folder / "rollouts" / "20261121T120000Z-assistant-1.1.0"
    lease.take(rollout.parent, rollout.name, pid=os.getpid(), by="ada@desk", since="now")
    journal = Journal(rollout)
    probe = GoldenText(messages=(Message("user", "What is the capital of France?"),), expect="Paris")
    release = Release(bundle="assistant@1.1.0", sha256="5a" * 32, size_bytes=1, probe=probe)
    journal.append(Opened(at=timestamp(), plan=Plan(release=release, policy=Policy(), waves=[["pi-1"]]), by="ada@desk"))
    journal.append(HostActivated(at=timestamp(datetime.now(UTC)), host="pi-1", seconds=1.0))
    audit.collect(folder, by="ada@desk")
    return folder


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """An age key pair's private part; ``recipient`` reads the public one."""
    typed(backup, "key", "--output", tmp_path / "backup.key")
    return tmp_path / "backup.key"


def recipient(key: Path) -> str:
    return key.read_text().splitlines()[0].partition(": ")[2]


@pytest.fixture
def made(fleet: Path, inventory: Path, key: Path, tmp_path: Path) -> Path:
    """A backup of the fleet for ``key``."""
    file = tmp_path / "meadow.age"
    typed(backup, "create", "-i", inventory, "--output", file, "--recipient", recipient(key))
    return file
