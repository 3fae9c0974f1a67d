from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hedgerow import recovery_key
from hedgerow.errors import RefusedError, UsageError


def test_it_is_made_once_and_is_its_owner_s_alone(tmp_path: Path) -> None:
    file = tmp_path / "storage" / "pi-1.recovery"
    key = recovery_key.ensure(file)
    assert recovery_key.ensure(file) == key == recovery_key.load(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert len(key.replace("-", "")) == 52, "256 bits"
    assert recovery_key.ensure(tmp_path / "other.recovery") != key


def test_it_lies_in_the_fleet_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path))
    assert recovery_key.path("meadow", "pi-1") == tmp_path / "fleets/meadow/storage/pi-1.recovery"


def test_one_that_others_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pi-1.recovery"
    recovery_key.ensure(file)
    file.chmod(0o640)
    with pytest.raises(RefusedError, match="others can read"):
        recovery_key.ensure(file)


@pytest.mark.parametrize("text", ["", "abcd-efgh", "é"])
def test_a_damaged_one_is_never_replaced(tmp_path: Path, text: str) -> None:
    file = tmp_path / "pi-1.recovery"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(UsageError, match="recovery key"):
        recovery_key.ensure(file)
    assert file.read_text() == text


def test_a_missing_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="restore it from your backup"):
        recovery_key.load(tmp_path / "none")
