"""Extras on their way from a role to the wheelhouse; in check mode nothing is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hedgerow.runtime.version import runtime_version

ROOT = Path(__file__).parents[3]


@pytest.fixture
def ask(plugin: Callable[[str], ModuleType]) -> Callable[..., dict[str, Any]]:
    module = plugin("action/hedgerow_wheelhouse")

    def run(**arguments: Any) -> dict[str, Any]:
        task = SimpleNamespace(
            args={"python": "3.13", "architecture": "aarch64"} | arguments, check_mode=True, async_val=0, diff=False
        )
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="none"))
        action = module.ActionModule(task, connection, SimpleNamespace(check_mode=True), None, None, None)
        return action.run(None, {})

    return run


def test_no_extras_are_no_change(ask: Callable[..., dict[str, Any]]) -> None:
    assert ask() == ask(extras=[])
    assert (ask()["version"], ask()["smoke_imports"], ask()["changed"]) == (runtime_version(ROOT), [], False)


def test_extras_have_a_version_and_something_to_prove(ask: Callable[..., dict[str, Any]]) -> None:
    answer = ask(extras=["vision", "traces"])
    assert answer["version"] == runtime_version(ROOT, ["traces", "vision"])
    assert answer["smoke_imports"] == ["hedgerow.server.telemetry.otlp", "hedgerow.vision.sources"]


def test_an_extra_that_there_is_not_fails_with_those_that_are(ask: Callable[..., dict[str, Any]]) -> None:
    answer = ask(extras=["cameras"])
    assert answer["failed"]
    assert "there are: traces, vision" in answer["msg"]
