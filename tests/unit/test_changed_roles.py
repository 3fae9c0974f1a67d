"""Which role scenarios a change calls for."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KNOWN = ["base", "hat", "os_pinning"]


@pytest.fixture(scope="module")
def tool() -> Any:
    path = Path(__file__).parents[2] / "tools/changed_roles.py"
    spec = importlib.util.spec_from_file_location("changed_roles", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "path,called",
    [
        ("roles/hat/tasks/run.yml", ["hat"]),
        ("molecule/hat/changed.yml", ["hat"]),
        ("tests/host/test_hat.py", ["hat"]),
        ("tests/host/test_converged.py", KNOWN),
        ("tests/host/conftest.py", KNOWN),
        ("molecule/default/inventory/hosts.yml", KNOWN),
        ("molecule/site/molecule.yml", []),
        (".config/molecule/config.yml", KNOWN),
        ("plugins/action/hedgerow_files.py", KNOWN),
        ("src/hedgerow/device/state.py", KNOWN),
        ("src/hedgerow/emulator/board.py", KNOWN),
        ("src/hedgerow/server/app.py", []),
        ("docs/operating.md", []),
        ("README.md", []),
        ("a-file-nobody-thought-of", KNOWN),
    ],
)
def test_a_path_calls_for(tool: Any, path: str, called: list[str]) -> None:
    assert tool.called_for([path], KNOWN) == called


def test_a_role_that_is_off_by_default_is_called_for_by_its_own_files_alone(tool: Any) -> None:
    assert set(tool.roles()) >= tool.OFF_BY_DEFAULT
    off = sorted(tool.OFF_BY_DEFAULT)
    assert tool.called_for(["plugins/action/hedgerow_files.py"], [*KNOWN, *off]) == KNOWN
    for name in off:
        paths = ["plugins/action/hedgerow_files.py", f"roles/{name}/x"]
        assert tool.called_for(paths, [*KNOWN, *off]) == sorted([*KNOWN, name])


def test_several_paths_add_up(tool: Any) -> None:
    assert tool.called_for(["roles/hat/x", "docs/y", "roles/base/z"], KNOWN) == ["base", "hat"]


def test_every_role_has_a_scenario(tool: Any) -> None:
    folders = {folder.name for folder in (Path(__file__).parents[2] / "roles").iterdir() if folder.is_dir()}
    assert set(tool.roles()) == folders


@pytest.mark.parametrize("turn,taken", [(0, ["base", "hat"]), (1, ["hat", "os_pinning"]), (5, ["base", "os_pinning"])])
def test_turns_come_round(tool: Any, turn: int, taken: list[str]) -> None:
    assert tool.taking_turns(KNOWN, 2, turn) == taken


def test_no_turns_are_taken_among_few(tool: Any) -> None:
    assert tool.taking_turns(KNOWN, 3, 7) == KNOWN
    assert tool.taking_turns([], 2, 7) == []


def test_those_left_out_are_named(tool: Any, clone: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(tool, "roles", lambda: KNOWN)
    monkeypatch.setattr(sys, "argv", ["changed_roles.py", "--at-most", "2"])
    tool.main()
    told = capsys.readouterr()
    taken = told.out.split()
    assert len(taken) == 2
    (left,) = set(KNOWN) - set(taken)
    assert told.err.rstrip().endswith(f": {left}")


@pytest.fixture
def clone(tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    for command in (
        ["init", "-q", "-b", "main"],
        ["-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "--allow-empty", "-m", "first"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_a_clone_with_nothing_to_compare_runs_all(tool: Any, clone: Path) -> None:
    assert tool.changed_since("main") is None
    assert tool.changed_since("origin/main") is None


def test_what_is_not_committed_yet_counts(tool: Any, clone: Path) -> None:
    (clone / "new.txt").write_text("x", encoding="utf-8")
    assert tool.changed_since("main") == ["new.txt"]
