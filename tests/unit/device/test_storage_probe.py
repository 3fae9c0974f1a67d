"""The probe that notices a dead root disk."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hedgerow.device import storage_probe

MOUNTINFO = """\
22 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw
23 22 0:21 / /proc rw - proc proc rw
30 22 179:1 / /boot/firmware rw - vfat /dev/mmcblk0p1 rw
"""


class Script:
    """Answers of a disk, one a read; True is well."""

    def __init__(self, answers: list[bool]) -> None:
        self.answers = answers
        self.fed = 0

    def read(self) -> None:
        if not self.answers.pop(0):
            raise OSError(5, "Input/output error")

    def feed(self) -> None:
        self.fed += 1


def test_the_root_device_is_found() -> None:
    assert storage_probe.root_device(MOUNTINFO) == Path("/dev/block/179:2")


@pytest.mark.parametrize("mountinfo", ["", "22 1 0:44 / / rw - overlay overlay rw\n"])
def test_a_root_without_a_block_device_has_none(mountinfo: str) -> None:
    assert storage_probe.root_device(mountinfo) is None


def test_f34_a_disk_that_answers_no_more_ends_the_probe(capsys: pytest.CaptureFixture[str]) -> None:
    """The unit's FailureAction does the rest."""
    disk = Script([True, True, False, False, False])
    assert storage_probe.watch(disk.read, disk.feed, lambda: None) == 1
    assert disk.fed == 2
    assert "3 of 3: [Errno 5] Input/output error" in capsys.readouterr().err


def test_f34_a_disk_that_hangs_leaves_the_watchdog_hungry() -> None:
    """A read that does not return feeds nobody: WatchdogSec ends the probe."""
    disk = Script([True, True])

    class StillHangsError(BaseException):
        """Stands for the read that never returns."""

    def read() -> None:
        if not disk.answers:
            raise StillHangsError
        disk.read()

    with pytest.raises(StillHangsError):
        storage_probe.watch(read, disk.feed, lambda: None)
    assert disk.fed == 2


def test_a_single_error_is_forgiven() -> None:
    disk = Script([False, False, True, False, False, True, False, False, False])
    assert storage_probe.watch(disk.read, disk.feed, lambda: None) == 1
    assert disk.fed == 2
    assert disk.answers == []


def test_it_reads_past_the_cache(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(storage_probe.BLOCK))
    storage_probe.read_block(file)
    file.write_bytes(b"short")
    with pytest.raises(OSError, match="less than a block"):
        storage_probe.read_block(file)
    with pytest.raises(FileNotFoundError):
        storage_probe.read_block(tmp_path / "gone")


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        storage_probe.notify("WATCHDOG=1")
        assert listener.recv(100) == b"WATCHDOG=1"
    monkeypatch.delenv("NOTIFY_SOCKET")
    storage_probe.notify("WATCHDOG=1")


def test_the_condition_reads_once_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit's `ExecCondition=`: what fails there passes the unit over, and must not reboot the board."""
    reads: list[Path] = []
    monkeypatch.setattr(storage_probe, "root_device", lambda _: Path("/dev/block/179:2"))
    monkeypatch.setattr(storage_probe, "read_block", reads.append)
    assert storage_probe.main(["--once"]) == 0
    assert reads == [Path("/dev/block/179:2")]
    monkeypatch.setattr(storage_probe, "root_device", lambda _: None)
    assert storage_probe.main(["--once"]) == 1
