"""A fleet's folder with the real CA, and the commands as an operator types them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from hedgerow import inventory as inventories
from hedgerow import paths
from hedgerow.commands.audit import audit
from hedgerow.commands.registry import registry
from hedgerow.identity.ca import FleetCA

FLEET = "meadow-unit"


@pytest.fixture
def fleet_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    # Reading an inventory takes Ansible a second; which fleet it names is all that counts here.
    monkeypatch.setattr(inventories, "load", lambda _path: SimpleNamespace(fleet=FLEET))
    return paths.fleet_dir(FLEET)


@pytest.fixture
def ca(fleet_dir: Path) -> FleetCA:
    return FleetCA.init(fleet_dir, FLEET)[0]


@pytest.fixture
def typed(fleet_dir: Path):
    """Type ``hedgerow audit …``; exit code and JSON. Errors come out as they are raised."""

    def run(*arguments: object):
        line = [str(each) for each in arguments]
        result = CliRunner().invoke(audit, [*line, "--json"], standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return int(result.return_value or 0), json.loads(result.stdout)

    return run


@pytest.fixture
def founded_stage(fleet_dir: Path, tmp_path: Path) -> Path:
    """The folder of stage ``dev``, with one key of root; its keys' passphrase is in ``tmp_path/passphrase``."""
    file = tmp_path / "passphrase"
    file.write_text("correct horse battery\n")
    file.chmod(0o600)
    done = CliRunner().invoke(
        registry, ["init", "--stage", "dev", "--passphrase-file", str(file), "--json"], standalone_mode=False
    )
    assert done.exception is None, done.exception
    return fleet_dir / "stages" / "dev"
