"""The task through the real ansible-playbook, on a path that is no disk: it must fail, and never tell the key."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Play = Callable[..., dict[str, Any]]
PLAN = {"device": "/dev/disk/by-id/none-such", "encrypted": True, "pcrs": "", "may_format": True, "rebind": False}


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    return tmp_path / "var/fleets/meadow/storage"


def task(name: str, **change: Any) -> dict[str, Any]:
    return {
        "name": name,
        "ignore_errors": True,
        "hedgerow_data_partition": {"plan": PLAN | change, "fleet": "meadow"},
    }


def test_check_mode_promises_and_makes_no_key(play: Play, keys: Path) -> None:
    found = play([task("move")], "--check")["move"]
    assert found["changed"]
    assert "would be mounted on /var/lib/hedgerow" in found["steps"][0]
    assert not keys.exists()


def test_the_key_is_kept_before_the_disk_is_touched_and_told_nowhere(play: Play, keys: Path) -> None:
    found = play([task("move")], "-vvvv")
    assert found["move"]["failed"]
    assert "is not there" in found["move"]["msg"]
    file = keys / "localhost.recovery"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().strip() not in str(found)


def test_a_disk_that_is_only_opened_needs_no_key(play: Play, keys: Path) -> None:
    play([task("open", may_format=False)])
    assert not keys.exists()


def test_rebinding_without_the_key_says_where_it_should_be(play: Play, keys: Path) -> None:
    found = play([task("rebind", may_format=False, rebind=True)])["rebind"]
    assert found["failed"]
    assert str(keys / "localhost.recovery") in found["msg"]
    assert "backup" in found["msg"]


def test_a_task_without_a_plan_is_refused(play: Play) -> None:
    found = play([{"name": "none", "ignore_errors": True, "hedgerow_data_partition": {"fleet": "meadow"}}])["none"]
    assert "plan and fleet are missing" in found["msg"]
