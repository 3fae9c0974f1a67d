"""A change that nobody confirms is undone, whenever it is cut off; systemd is played, files are real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hedgerow.device import guard
from hedgerow.device.guard import GuardError


class Systemd:
    """Notes the commands; `fails` names one (by its first words) that does."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.fails: tuple[str, ...] = ()
        self.says: dict[str, str] = {}

    def __call__(self, command: list[str]) -> tuple[int, str]:
        self.commands.append(command)
        if self.fails and tuple(command[: len(self.fails)]) == self.fails:
            return 1, "no"
        return 0, self.says.get(command[0], "")


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    played = Systemd()
    (tmp_path / "system").mkdir()
    monkeypatch.setattr(guard, "GUARDS", tmp_path / "guard")
    monkeypatch.setattr(guard, "UNITS", tmp_path / "system")
    monkeypatch.setattr(guard, "_run", played)
    return played


def arm(*paths: Path, **more: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"live": {}, "commands": [], "within_s": 60, "source": "# guard\n"} | more
    return guard.arm("x", paths=[str(path) for path in paths], **asked)


def everything(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def test_what_changed_comes_back_byte_for_byte_with_its_mode(tmp_path: Path, systemd: Systemd) -> None:
    changed, new, gone = (tmp_path / name for name in ("changed", "new", "gone"))
    link = tmp_path / "link"
    changed.write_text("old")
    changed.chmod(0o640)
    gone.write_text("kept")
    link.symlink_to("changed")
    arm(changed, new, gone, link)
    changed.write_text("new")
    changed.chmod(0o600)
    new.write_text("new")
    gone.unlink()
    link.unlink()
    link.write_text("a file now")
    assert guard.revert("x") == {"changed": True, "failed_commands": []}
    assert (changed.read_text(), changed.stat().st_mode & 0o777) == ("old", 0o640)
    assert not new.exists()
    assert gone.read_text() == "kept"
    assert str(link.readlink()) == "changed"


def test_nothing_of_it_is_left_either_way(tmp_path: Path, systemd: Systemd) -> None:
    for end in (guard.confirm, guard.revert):
        arm(tmp_path / "a")
        assert (tmp_path / "system/hedgerow-guard-x.service").is_file()
        end("x")
        assert everything(tmp_path) == {}
        assert list((tmp_path / "system/sysinit.target.wants").iterdir()) == []
        assert ["systemctl", "stop", "hedgerow-guard-x.timer"] in systemd.commands


def test_exactly_one_of_confirm_and_revert_wins(tmp_path: Path, systemd: Systemd) -> None:
    file = tmp_path / "a"
    file.write_text("old")
    arm(file)
    file.write_text("new")
    assert guard.confirm("x")["confirmed"]
    assert not guard.revert("x")["changed"]
    assert file.read_text() == "new"
    arm(file)
    file.write_text("newer")
    assert guard.revert("x")["changed"]
    assert not guard.confirm("x")["confirmed"]
    assert file.read_text() == "new"


def test_a_power_cut_while_it_waits_reverts_at_the_next_boot(tmp_path: Path, systemd: Systemd) -> None:
    arm(tmp_path / "a")
    unit = (tmp_path / "system/hedgerow-guard-x.service").read_text()
    assert "Before=sysinit.target nftables.service ssh.service" in unit
    assert (tmp_path / "system/sysinit.target.wants/hedgerow-guard-x.service").is_symlink()
    assert (tmp_path / "guard/x/guard.py").read_text() == "# guard\n"


def test_a_revert_that_was_cut_off_is_finished_by_the_next(
    tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_text("old")
    arm(*files)
    for file in files:
        file.write_text("new")
    restore = guard._restore

    def cut(kept: dict[str, Any]) -> None:
        if kept["path"].endswith("b"):
            raise KeyboardInterrupt
        restore(kept)

    monkeypatch.setattr(guard, "_restore", cut)
    with pytest.raises(KeyboardInterrupt):
        guard.revert("x")
    assert not guard.confirm("x")["confirmed"], "half undone, so it cannot be kept any more"
    monkeypatch.setattr(guard, "_restore", restore)
    # confirm() tidied nothing up: the folder is still there for the next boot.
    assert guard.revert("x")["changed"]
    assert [file.read_text() for file in files] == ["old", "old"]


def test_live_state_is_kept_and_what_is_not_there_is_kept_as_nothing(tmp_path: Path, systemd: Systemd) -> None:
    systemd.says["nft"] = "table inet x {}"
    arm(live={"rules": ["nft", "list"]}, commands=[["load", "{folder}/rules"]])
    assert (tmp_path / "guard/x/rules").read_text() == "table inet x {}"
    guard.revert("x")
    assert ["load", str(tmp_path / "guard/x/rules")] in systemd.commands
    systemd.fails = ("nft",)
    arm(live={"rules": ["nft", "list"]})
    assert (tmp_path / "guard/x/rules").read_text() == ""


def test_without_a_clock_nothing_begins(tmp_path: Path, systemd: Systemd) -> None:
    systemd.fails = ("systemd-run",)
    with pytest.raises(GuardError, match="nothing was changed"):
        arm(tmp_path / "a")
    assert everything(tmp_path) == {}


def test_a_second_change_waits_for_the_first(tmp_path: Path, systemd: Systemd) -> None:
    arm(tmp_path / "a")
    with pytest.raises(GuardError, match="still waits"):
        arm(tmp_path / "a")


def test_what_fails_on_the_way_back_is_said_and_the_rest_still_done(tmp_path: Path, systemd: Systemd) -> None:
    arm(commands=[["first"], ["second"]])
    systemd.fails = ("first",)
    assert guard.revert("x")["failed_commands"] == ["`first`: no"]
    assert ["second"] in systemd.commands


def test_apply_ends_at_the_first_command_that_fails(systemd: Systemd) -> None:
    systemd.fails = ("b",)
    with pytest.raises(GuardError, match="`b` failed"):
        guard.apply([["a"], ["b"], ["c"]])
    assert systemd.commands == [["a"], ["b"]]


def test_kept_files_are_root_s_alone(tmp_path: Path, systemd: Systemd) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    arm(secret)
    folder = tmp_path / "guard/x"
    assert folder.stat().st_mode & 0o777 == 0o700
    kept = json.loads((folder / "armed.json").read_text())["kept"][0]
    assert Path(kept["copy"]).stat().st_mode & 0o777 == 0o600
