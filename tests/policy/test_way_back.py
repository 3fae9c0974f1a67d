"""What takes a runtime back must run in none that could be at fault: what units start, what the switch imports."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

UNITS = "templates/etc/systemd/system"
SWITCH = "/usr/local/lib/hedgerow/switch.py"


def starts(root: Path, role: str, unit: str) -> str:
    text = (root / "roles" / role / UNITS / f"{unit}.j2").read_text(encoding="utf-8")
    return re.findall(r"(?m)^ExecStart=(.+)$", text)[0]


@pytest.mark.parametrize("unit", ["hedgerow-deadline.service", "hedgerow-agent.service"])
def test_deadline_and_agent_run_in_the_confirmed_runtime(root: Path, unit: str) -> None:
    assert starts(root, "model_store", unit).startswith("/opt/hedgerow/runtime/confirmed/bin/hedgerow-device ")


def test_the_server_runs_in_the_current_one(root: Path) -> None:
    assert starts(root, "inference_runtime", "hedgerow-server.service").startswith("/opt/hedgerow/runtime/current/")


def test_the_switch_runs_in_none(root: Path) -> None:
    assert starts(root, "inference_runtime", "hedgerow-switch@.service") == f"/usr/bin/python3 -I {SWITCH}"
    tree = ast.parse((root / "src/hedgerow/device/switch.py").read_text(encoding="utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert len(names) > 5, "the reader of imports reads none"
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_only_root_may_speak_to_the_switch(root: Path) -> None:
    text = (root / "roles/inference_runtime" / UNITS / "hedgerow-switch.socket.j2").read_text(encoding="utf-8")
    assert "SocketMode=0600" in text
    assert not re.search(r"(?m)^Socket(User|Group)=", text)
