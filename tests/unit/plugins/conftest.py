"""Action and filter plugins are files that Ansible loads by path; so do these tests."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def plugin() -> Callable[[str], ModuleType]:
    """Load ``action/hedgerow_files`` and the like."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name.replace("/", "_"), ROOT / f"plugins/{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run tasks of a role on this machine through the real ansible-playbook; return each task's result by name."""

    def run(tasks: list[dict[str, Any]], *options: str, **files: str) -> dict[str, Any]:
        role = tmp_path / "roles/r"
        (role / "tasks").mkdir(parents=True, exist_ok=True)
        (role / "tasks/main.yml").write_text(json.dumps(tasks))
        for name, text in files.items():
            path = role / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "play.yml").write_text(
            json.dumps([{"hosts": "localhost", "connection": "local", "gather_facts": False, "roles": ["r"]}])
        )
        done = subprocess.run(
            [Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", tmp_path / "play.yml", *options],
            env=os.environ
            | {
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
                "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
                "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote"),
                "ANSIBLE_INTERPRETER_PYTHON": sys.executable,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            document = json.loads(done.stdout[done.stdout.index("{") :])
        except ValueError:
            raise AssertionError(done.stdout + done.stderr) from None
        return {
            task["task"]["name"].removeprefix("r : "): task["hosts"]["localhost"]
            for task in document["plays"][0]["tasks"]
        }

    return run
