"""The drill: a controller is lost, restored from its backup on an empty one, and manages the same fleet."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hedgerow import audit
from hedgerow.commands.backup import backup
from hedgerow.commands.ca import ca
from hedgerow.commands.registry import registry
from hedgerow.rollout import store
from hedgerow.rollout.journal import Journal

_SPEC = importlib.util.spec_from_file_location("backup_conftest", Path(__file__).with_name("conftest.py"))
_helpers = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_helpers)
typed, recipient, KNOWN_HOSTS, FLEET = _helpers.typed, _helpers.recipient, _helpers.KNOWN_HOSTS, _helpers.FLEET

pytestmark = pytest.mark.slow


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode & 0o777)
            for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}  # fmt: skip


def versions(fleet: Path) -> dict[str, int]:
    names = sorted((fleet / "stages" / "dev" / "registry" / "metadata").glob("*.snapshot.json"))
    return {"snapshot": max(int(path.name.partition(".")[0]) for path in names)}


def test_a_lost_controller_comes_back(made, fleet, inventory, key, passphrase):
    before, root = tree(fleet), typed(ca, "show")["sha256"]
    known = versions(fleet)
    shutil.rmtree(fleet)
    shutil.rmtree(inventory)

    done = typed(backup, "restore", made, "--identity", key, "--inventory-to", inventory)
    after = tree(fleet)
    assert {name: after.get(name) for name in before if not name.startswith(("audit/", "rollouts/lease"))} == {
        name: found for name, found in before.items() if not name.startswith(("audit/", "rollouts/lease"))
    }
    assert (inventory / "group_vars" / "all.yml").read_text() == f"fleet: {FLEET}\n"
    assert "the passphrase of fleet/ca/ca.key" in done["apart"]

    # The CA signs for the same root.
    assert typed(ca, "show")["sha256"] == root
    issued = typed(ca, "issue", "--profile", "operator", "--name", "ben")
    verified = subprocess.run(["openssl", "verify", "-CAfile", issued["ca"], issued["certificate"]],
                              capture_output=True, text=True, check=False)  # fmt: skip
    assert verified.returncode == 0, verified.stderr
    assert [each["name"] for each in typed(ca, "list")] == ["ada", "ben"]
    # Hosts are known as before: no first contact, no trust on first use.
    assert (fleet / "ssh" / "known_hosts").read_text() == KNOWN_HOSTS
    # Releases go on, with versions that devices take for newer.
    typed(registry, "renew", "targets", "--stage", "dev", "--passphrase-file", passphrase)
    assert versions(fleet)["snapshot"] > known["snapshot"]
    assert typed(registry, "log", "--stage", "dev", "--verify")["wrong"] == []
    # The rollout is there, and can be gone on with.
    rollout, _ = store.read(fleet / "rollouts")
    assert [type(each).__name__ for each in Journal(fleet / "rollouts" / rollout).events()] == [
        "Opened", "HostActivated",
    ]  # fmt: skip
    # The audit log goes on where it was, and says that this was a restore.
    assert audit.of_fleet(fleet).check().entries == len(list(audit.of_fleet(fleet).entries()))
    assert audit.unsealed(fleet) == []
    assert typed(backup, "list")[-1]["what"] == "restored"


def test_a_registry_that_went_on_after_the_backup_comes_from_a_mirror(made, fleet, key, passphrase, tmp_path):
    """Keys from the backup, metadata from a gateway: what devices have seen since is not gone back behind."""
    typed(registry, "renew", "targets", "--stage", "dev", "--passphrase-file", passphrase)
    mirror = shutil.copytree(fleet / "stages" / "dev" / "registry", tmp_path / "mirror")
    seen = versions(fleet)
    shutil.rmtree(fleet)
    typed(backup, "restore", made, "--identity", key)
    assert versions(fleet)["snapshot"] < seen["snapshot"]
    shutil.rmtree(fleet / "stages" / "dev" / "registry")
    shutil.copytree(mirror, fleet / "stages" / "dev" / "registry")
    typed(registry, "renew", "targets", "--stage", "dev", "--passphrase-file", passphrase)
    assert versions(fleet)["snapshot"] > seen["snapshot"]


@pytest.mark.skipif(shutil.which("age") is None, reason="the program age is not installed")
def test_it_opens_without_hedgerow(made, key, fleet, tmp_path):
    (tmp_path / "by-hand").mkdir()
    opened = subprocess.run(["age", "-d", "-i", key, made], capture_output=True, check=True)
    subprocess.run(["tar", "xz", "-C", tmp_path / "by-hand"], input=opened.stdout, check=True)
    assert (tmp_path / "by-hand" / "fleet" / "ca" / "ca.key").read_bytes() == (fleet / "ca" / "ca.key").read_bytes()


def test_it_is_restored_by_a_process_that_knows_nothing(made, key, tmp_path, fleet):
    root, other = (fleet / "ca" / "ca.crt").read_bytes(), tmp_path / "other"
    done = subprocess.run(
        [sys.executable, "-m", "hedgerow.cli", *("backup", "restore", made, "--identity", key, "--to", other)],
        capture_output=True, text=True, check=False, env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (other / "fleets" / FLEET / "ca" / "ca.crt").read_bytes() == root
