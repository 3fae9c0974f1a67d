"""The units that keep a stage fresh: as systemd judges them, and what their commands do to a stage that is due."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import stages

from hedgerow.paths import repository_root

SERVICE = repository_root() / "files" / "systemd" / "hedgerow-registry-refresh@.service"
LISTS = SERVICE.with_name("hedgerow-revocation-lists.service")
INVENTORY = repository_root() / "inventory" / "emulated"
STAGE = "production"


def commands(unit: Path) -> list[list[str]]:
    """``ExecStart`` in order, for the instance of ``STAGE``."""
    found: list[list[str]] = []
    for line in unit.read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "ExecStart":
            found.append(shlex.split(value.replace("%i", STAGE)))
    return found


def expires(store: Path) -> datetime:
    """When the timestamp ends."""
    signed = json.loads((store / "metadata" / "timestamp.json").read_bytes())["signed"]
    return datetime.fromisoformat(signed["expires"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="judged by systemd itself")
@pytest.mark.parametrize("unit", [SERVICE, LISTS], ids=lambda path: path.name)
def test_systemd_finds_it_tight_and_whole(unit: Path, tmp_path: Path) -> None:
    """As all units of ours: 2.5 at the most (``--threshold`` takes tenths)."""
    path = tmp_path / unit.name.replace("@", f"@{STAGE}")
    shutil.copy(unit, path)
    for words in (["security", "--offline=true", "--threshold=25"], ["verify"]):
        done = subprocess.run(["systemd-analyze", *words, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_what_is_due_is_renewed_and_then_brought_to_gateways(tmp_path: Path) -> None:
    var = tmp_path / "var"
    then = datetime.now(UTC) - timedelta(hours=20)  # of a timestamp's day, four are left
    stage = stages.found(var / "fleets" / stages.FLEET / "stages" / STAGE, now=lambda: then)
    playbook = tmp_path / "ansible-playbook"
    playbook.write_text(f'#!/bin/sh\necho "$PWD" "$@" >{tmp_path}/played\n')
    playbook.chmod(0o700)
    environment = {
        "PATH": os.environ["PATH"],
        "HEDGEROW_VAR": str(var),
        "HEDGEROW": str(Path(sys.executable).with_name("hedgerow")),
        "HEDGEROW_ROOT": str(repository_root()),
        "INVENTORY": str(INVENTORY),
        "PLAYBOOK": str(playbook),
    }
    assert expires(stage.root) < datetime.now(UTC) + timedelta(hours=5)
    for words in commands(SERVICE):
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert expires(stage.root) > datetime.now(UTC) + timedelta(hours=23)
    played = f"{repository_root()} -i {INVENTORY} playbooks/publish.yml\n"
    assert (tmp_path / "played").read_text() == played
    assert (repository_root() / "playbooks" / "publish.yml").is_file()

    (tmp_path / "played").unlink()
    alone = environment | {"PLAYBOOK": ""}
    for words in commands(SERVICE):
        subprocess.run(words, env=alone, capture_output=True, check=True)
    assert not (tmp_path / "played").exists()
