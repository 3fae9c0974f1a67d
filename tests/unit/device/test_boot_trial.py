"""The trial of a boot configuration: what firmware reads after a power cut at any step, and what ends a bad one."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hedgerow.converge import boot, config_txt
from hedgerow.device import boot_trial
from hedgerow.device.boot_trial import Device, Disk, Trial, TrialError

OLD = ("dtparam=audio=on\n", "root=/dev/mmcblk0p2 quiet\n")
NEW = ("dtparam=audio=off\narm_boost=1\n", "root=/dev/mmcblk0p2 psi=1\n")


class PowerCutError(Exception):
    """The plug is out."""


class CutDisk(Disk):
    """A disk that loses power at its ``at``-th write; a file that was being written is left half."""

    def __init__(self, at: int) -> None:
        self.left = at

    def _tick(self) -> bool:
        self.left -= 1
        return self.left < 0

    def write_new(self, path: Path, data: bytes) -> None:
        if self._tick():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[: len(data) // 2])
            raise PowerCutError
        super().write_new(path, data)

    def rename(self, old: Path, new: Path) -> None:
        if self._tick():
            raise PowerCutError
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        if path.exists() and self._tick():
            raise PowerCutError
        super().remove(path)


class Board:
    """A boot partition, and the firmware that reads it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.boot = root / "boot/firmware"
        self.boot.mkdir(parents=True)
        for name, text in zip(("config.txt", "cmdline.txt"), OLD, strict=True):
            (self.boot / name).write_text(text)
        self.boots = 0
        self.power_on()

    def power_on(self, *, tryboot: bool = False) -> tuple[str, str]:
        """Boot, and return what was read: the settings that count and the command line."""
        self.boots += 1
        tree = self.root / "proc/device-tree/chosen/bootloader"
        tree.mkdir(parents=True, exist_ok=True)
        (tree / "tryboot").write_bytes(struct.pack(">I", tryboot))
        config = (self.boot / ("tryboot.txt" if tryboot else "config.txt")).read_text()
        named = config_txt.effective(config).get("cmdline")
        cmdline = (self.boot / (named.value if named else "cmdline.txt")).read_text()
        (self.root / "proc/sys/kernel/random").mkdir(parents=True, exist_ok=True)
        (self.root / "proc/sys/kernel/random/boot_id").write_text(f"boot-{self.boots}\n")
        (self.root / "proc/cmdline").write_text(cmdline)
        return settings(config), tokens(cmdline)

    def device(self, disk: Disk | None = None) -> Device:
        return Device(str(self.root), disk)

    def stage(self, **more: Any) -> dict[str, Any]:
        wanted = boot.trial(*NEW, identity="t1", kernel_watchdog_s=120)
        return boot_trial.stage(str(self.root), **wanted, **more)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.boot.iterdir())


def settings(config: str) -> str:
    """What counts, without what a trial adds for itself."""
    own = {"cmdline", "kernel_watchdog_timeout", "dtparam:watchdog"}
    return repr({k: s.value for k, s in config_txt.effective(config).items() if k not in own})


def tokens(cmdline: str) -> str:
    return " ".join(w for w in cmdline.split() if not w.startswith(("hedgerow.trial=", "watchdog_disarm=", "panic=")))


OLD_READ = (settings(OLD[0]), tokens(OLD[1]))
NEW_READ = (settings(NEW[0]), tokens(NEW[1]))


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    monkeypatch.setattr(boot_trial, "failed_units", list)
    monkeypatch.setattr(boot_trial, "_run", lambda argv: boot_trial.subprocess.CompletedProcess(argv, 0, "", ""))
    return Board(tmp_path)


def well(_device: Device, _trial: Trial) -> None:
    return None


def resume(device: Device, unwell: Callable[[Device, Trial], str | None] = well) -> str:
    """With a clock that moves when it sleeps."""
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    return boot_trial.resume(device, unwell=unwell, now=lambda: clock[0], sleep=sleep)


def test_a_good_change_is_kept_and_nothing_is_left_over(board: Board) -> None:
    assert board.stage()["changed"]
    assert board.power_on() == OLD_READ, "staging alone changes no boot"
    boot_trial.arm(str(board.root))
    assert board.power_on(tryboot=True) == NEW_READ
    assert resume(board.device()) == "committed"
    assert board.power_on() == NEW_READ
    assert board.names() == ["cmdline.txt", "config.txt"]
    assert ((board.boot / "config.txt").read_text(), (board.boot / "cmdline.txt").read_text()) == NEW
    result = boot_trial.report(str(board.root))["result"]
    assert (result["outcome"], result["boot_id"]) == ("committed", "boot-3")


def test_a_bad_change_ends_its_boot_and_the_next_one_is_the_old(board: Board) -> None:
    board.stage(within_s=60)
    boot_trial.arm(str(board.root))
    board.power_on(tryboot=True)
    assert resume(board.device(), lambda *_: "failed: ssh.service") == "reboot"
    assert board.power_on() == OLD_READ
    assert resume(board.device()) == "fell_back"
    result = boot_trial.report(str(board.root))["result"]
    assert (result["outcome"], result["reason"]) == ("fell_back", "failed: ssh.service")
    assert board.names() == ["cmdline.txt", "config.txt"]


def test_a_device_must_stay_well_for_a_while(board: Board) -> None:
    board.stage(within_s=60, stable_s=10)
    boot_trial.arm(str(board.root))
    board.power_on(tryboot=True)
    flickers = iter(range(1000))
    assert resume(board.device(), lambda *_: "it comes and goes" if next(flickers) % 4 == 3 else None) == "reboot"


def test_a_second_trial_may_follow_in_the_boot_that_kept_the_first(board: Board) -> None:
    board.stage()
    boot_trial.arm(str(board.root))
    board.power_on(tryboot=True)
    assert resume(board.device()) == "committed"
    boot_trial.stage(str(board.root), **boot.trial("a=1\n", "quiet\n", identity="t2", kernel_watchdog_s=120))
    boot_trial.arm(str(board.root))
    assert resume(board.device()) == "waiting", "the flag of the first is no word on the second"


def test_f36_a_boot_that_hung_is_told_from_one_that_never_began(board: Board) -> None:
    board.stage()
    boot_trial.arm(str(board.root))
    assert resume(board.device()) == "waiting", "armed a moment ago: the reboot is on its way"
    board.power_on()
    assert resume(board.device()) == "fell_back"
    assert "did not reach its first unit" in boot_trial.report(str(board.root))["result"]["reason"]

    board.stage()
    boot_trial.arm(str(board.root))
    board.power_on(tryboot=True)
    with pytest.raises(PowerCutError):
        resume(board.device(), lambda *_: (_ for _ in ()).throw(PowerCutError))
    assert board.power_on() == OLD_READ
    assert resume(board.device()) == "fell_back"
    assert "power cut" in boot_trial.report(str(board.root))["result"]["reason"]


def test_f36_the_trial_s_own_files_end_a_boot_that_hangs() -> None:
    files = boot.trial("dtoverlay=x\n", "quiet\n", identity="t", kernel_watchdog_s=90)
    counts = config_txt.effective(files["tryboot"])
    assert counts["kernel_watchdog_timeout"].value == "90"
    assert counts["dtparam:watchdog"].value == "on", "of the base tree, not of the overlay x"
    assert files["tryboot_cmdline"] == "quiet panic=10 watchdog_disarm=0 hedgerow.trial=t\n"
    assert files["cmdline"] == "quiet\n", "what is kept is what was asked for"
    assert "panic=10" not in boot.trial("", "panic=5\n", identity="t", kernel_watchdog_s=90)["tryboot_cmdline"]


def cut_at_every_write(board: Board, step: Callable[[Device], object], check: Callable[[int], None]) -> int:
    """Run ``step`` with the power cut at its first, second, … write; returns how many there are."""
    before = {path: path.read_bytes() for path in board.root.rglob("*") if path.is_file()}
    for at in range(100):
        for path in [path for path in board.root.rglob("*") if path.is_file()]:
            path.unlink()
        for path, data in before.items():
            path.write_bytes(data)
        try:
            step(board.device(CutDisk(at)))
        except PowerCutError:
            check(at)
        else:
            return at
    pytest.fail("it never ends")


def test_f36_a_power_cut_at_any_write_of_the_commit_leaves_the_old_pair_or_the_new_one(board: Board) -> None:
    board.stage()
    boot_trial.arm(str(board.root))
    board.power_on(tryboot=True)
    seen: list[tuple[str, str]] = []

    def check(at: int) -> None:
        read = board.power_on()
        seen.append(read)
        assert read in (OLD_READ, NEW_READ), f"cut at write {at}: half of each"
        expected = resume(board.device())
        assert board.device().trial() is None
        assert board.power_on() == (NEW_READ if expected == "committed" else OLD_READ)
        assert board.names() == ["cmdline.txt", "config.txt"]

    writes = cut_at_every_write(board, resume, check)
    assert writes >= 12
    assert {OLD_READ, NEW_READ} == set(seen), "both sides of the switch were met"


def test_a_power_cut_at_any_write_of_staging_changes_no_boot(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    def stage(device: Device) -> None:
        monkeypatch.setattr(boot_trial, "Device", lambda _root: device)
        try:
            board.stage()
        finally:
            monkeypatch.setattr(boot_trial, "Device", Device)

    def check(_at: int) -> None:
        assert board.power_on() == OLD_READ
        assert resume(board.device()) == "waiting"

    assert cut_at_every_write(board, stage, check) == 6


def test_a_power_cut_while_falling_back_is_finished_by_the_next_boot(board: Board) -> None:
    board.stage(within_s=10)
    boot_trial.arm(str(board.root))
    board.power_on(tryboot=True)
    resume(board.device(), lambda *_: "bad")
    board.power_on()

    def check(_at: int) -> None:
        assert board.power_on() == OLD_READ
        assert resume(board.device()) in {"fell_back", "waiting"}
        assert board.device().trial() is None
        assert board.names() == ["cmdline.txt", "config.txt"]

    cut_at_every_write(board, resume, check)


def test_what_is_as_wanted_is_not_tried(board: Board) -> None:
    wanted = boot.trial(*OLD, identity="t1", kernel_watchdog_s=120)
    assert not boot_trial.stage(str(board.root), **wanted)["changed"]
    assert board.names() == ["cmdline.txt", "config.txt"]


def test_staging_twice_is_staging_once(board: Board) -> None:
    assert board.stage()["changed"]
    assert not board.stage()["changed"]


@pytest.mark.parametrize(
    "name, text", [("autoboot.txt", "[all]\ntryboot_a_b=1\n"), ("tryboot.txt", "os_prefix=new/\n")]
)
def test_f37_another_updater_s_layout_is_left_alone(board: Board, name: str, text: str) -> None:
    (board.boot / name).write_text(text)
    with pytest.raises(TrialError) as error:
        board.stage()
    assert name in error.value.where
    assert (board.boot / name).read_text() == text


def test_firmware_that_does_not_tell_is_refused(board: Board) -> None:
    (board.root / "proc/device-tree/chosen/bootloader/tryboot").unlink()
    with pytest.raises(TrialError, match="does not tell"):
        board.stage()


def test_f40_a_full_boot_partition_is_refused(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot_trial.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 1000})())
    with pytest.raises(TrialError, match="are free on the boot partition"):
        board.stage()


def test_a_card_that_lost_the_files_is_found_before_the_reboot(board: Board) -> None:
    board.stage()
    (board.boot / "tryboot.txt").write_text("")
    with pytest.raises(TrialError, match="does not hold what was staged"):
        boot_trial.arm(str(board.root))


def test_f35_the_flag_is_a_reboot_argument(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(
        boot_trial, "_run", lambda argv: asked.append(argv) or boot_trial.subprocess.CompletedProcess(argv, 0, "", "")
    )
    board.stage()
    boot_trial.arm(str(board.root))
    assert asked[-1][-3:] == ["systemctl", "reboot", "--reboot-argument=0 tryboot"]


def test_a_reboot_that_cannot_be_asked_for_leaves_it_staged(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot_trial, "_run", lambda argv: boot_trial.subprocess.CompletedProcess(argv, 1, "", "no bus"))
    board.stage()
    with pytest.raises(TrialError, match="no bus"):
        boot_trial.arm(str(board.root))
    assert board.device().trial().phase == "staged"


def test_a_second_trial_waits_for_the_first(board: Board) -> None:
    board.stage()
    boot_trial.arm(str(board.root))
    with pytest.raises(TrialError, match="not over yet: armed"):
        board.stage()


def test_cancelling_ends_it_and_a_commit_is_not_cancelled(board: Board) -> None:
    board.stage()
    assert boot_trial.cancel(str(board.root))["changed"]
    assert board.names() == ["cmdline.txt", "config.txt"]
    assert not boot_trial.cancel(str(board.root))["changed"]
    board.stage()
    note = board.root / "etc/hedgerow/boot-trial/trial.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"phase": "committing"}))
    with pytest.raises(TrialError, match="being committed"):
        boot_trial.cancel(str(board.root))


def test_the_trial_s_boot_is_proved_by_its_own_token(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    board.stage()
    trial = board.device().trial()
    reason = boot_trial.unwell(board.device(), trial)
    assert reason == "the kernel was started without hedgerow.trial=t1"
    board.power_on(tryboot=True)
    answers = {"is-system-running": "degraded\n", "is-active": ""}
    monkeypatch.setattr(
        boot_trial,
        "_run",
        lambda argv: boot_trial.subprocess.CompletedProcess(argv, int("false" in argv), answers.get(argv[1], ""), ""),
    )
    monkeypatch.setattr(boot_trial, "failed_units", lambda: ["old.service"])
    healthy = dataclasses.replace(trial, failed_before=["old.service"])
    assert boot_trial.unwell(board.device(), healthy) is None
    assert boot_trial.unwell(board.device(), trial) == "failed: old.service"
    broken = dataclasses.replace(healthy, commands=["false now"])
    assert boot_trial.unwell(board.device(), broken).startswith("`false now` ended with 1")


def test_an_error_in_the_trial_s_boot_ends_it(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    board.stage()
    boot_trial.arm(str(board.root))
    (board.root / "etc/hedgerow/boot-trial/trial.json").write_text("{")
    rebooted: list[bool] = []
    monkeypatch.setattr(boot_trial, "reboot", lambda: rebooted.append(True))
    monkeypatch.setattr(boot_trial, "Device", lambda: Device(str(board.root)))
    assert boot_trial.main(["resume"]) == 1
    assert not rebooted, "in a normal boot an error is told and no reason to reboot"
    board.power_on(tryboot=True)
    assert boot_trial.main(["resume"]) == 1
    assert rebooted


def test_names_are_the_ones_that_the_controller_writes() -> None:
    assert boot_trial.TRYBOOT_CMDLINE == boot.TRYBOOT_CMDLINE
    assert boot_trial.MARK == boot.TRIAL_MARK
    assert boot_trial.main(["nonsense"]) == 2


def test_a_file_is_synced_under_its_new_name_before_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT writes a name's entry with the file; tests/vm/test_boot_files.py pulls the plug."""
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
    )
    Device(str(tmp_path)).put(tmp_path / "a", "new\n")
    assert synced == [str(tmp_path / ".a.new"), str(tmp_path / "a"), str(tmp_path)]
