"""Filters are loaded at every start of ansible-playbook, and by ``ansible`` for each task on each host: quickly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# A second and more of processor time, or a network client: nothing that a filter, being pure, has a use for.
SLOW = ("jsonschema", "rfc3987_syntax", "lark", "httpx", "numpy", "tuf", "boto3", "importlib.metadata")
LOAD = """
import runpy, sys
from ansible.errors import AnsibleFilterError
before = set(sys.modules)
runpy.run_path(sys.argv[1])
print(*sorted(set(sys.modules) - before))
"""


def loads(file: Path) -> set[str]:
    done = subprocess.run([sys.executable, "-c", LOAD, file], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def slow(modules: set[str]) -> list[str]:
    return [name for name in SLOW if name in modules]


@pytest.mark.slow
def test_filters_load_nothing_slow(root: Path) -> None:
    for file in sorted((root / "plugins" / "filter").glob("*.py")):
        found = loads(file)
        assert any(name.startswith("hedgerow.") for name in found), f"{file.name} did not load"
        assert slow(found) == [], f"{file.name} makes every task on every host pay for it"


def test_it_can_fail(tmp_path: Path) -> None:
    file = tmp_path / "filter.py"
    file.write_text("import jsonschema\n", encoding="utf-8")
    assert "jsonschema" in slow(loads(file))
