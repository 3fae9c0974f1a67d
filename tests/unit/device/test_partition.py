"""Real disks: loop devices with real ext4, so that every refusal and every cut is what a host would see."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hedgerow.device import partition
from hedgerow.device.partition import PartitionError

CONTENT = {
    "identity/device.key": b"secret\n",
    "models/assistant/1.0.0/model.onnx": os.urandom(300_000),
    "activation/events.jsonl": b"{}\n",
}


def _loops_work() -> bool:
    if os.geteuid() != 0 or shutil.which("losetup") is None or shutil.which("mkfs.ext4") is None:
        return False
    return subprocess.run(["losetup", "--find"], capture_output=True, check=False).returncode == 0


needs_loops = pytest.mark.skipif(not _loops_work(), reason="loop devices are root's, and not of every container")
pytestmark = [pytest.mark.slow, needs_loops]


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """An empty disk of 64 MiB."""
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    name = run("losetup", "--find", "--show", str(image))
    yield name
    subprocess.run(["umount", name], capture_output=True, check=False)
    run("losetup", "--detach", name)


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What stands for the card: /var/lib/hedgerow with content, services that are never there."""
    root = tmp_path / "card"
    target = root / "hedgerow"
    for name, content in CONTENT.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
    (target / "models/assistant/current").symlink_to("1.0.0")
    (target / "identity").chmod(0o700)
    (target / "identity/device.key").chmod(0o600)
    os.chown(target / "activation", 65534, 65534)
    monkeypatch.setattr(partition, "TARGET", target)
    monkeypatch.setattr(partition, "ASIDE", root / "hedgerow.card")
    monkeypatch.setattr(partition, "WORK", tmp_path / "work")
    monkeypatch.setattr(partition, "_UNITS", ())
    yield target
    subprocess.run(["umount", str(target)], capture_output=True, check=False)
    subprocess.run(["umount", str(tmp_path / "work/new")], capture_output=True, check=False)
    subprocess.run(["chattr", "-i", str(target)], capture_output=True, check=False)


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "lost+found" not in path.parts
    }


WANTED = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}


def is_mounted(target: Path, disk: str) -> bool:
    found = subprocess.run(["findmnt", "-no", "SOURCE", "-M", str(target)], capture_output=True, text=True, check=False)
    return found.stdout.strip() == disk


def label(disk: str) -> str:
    return run("blkid", "-p", "-o", "value", "-s", "LABEL", disk)


def test_the_content_moves_with_owners_modes_and_links(card: Path, disk: str) -> None:
    answer = partition.prepare(disk, may_format=True)
    assert answer["changed"]
    assert is_mounted(card, disk)
    assert tree(card) == WANTED
    assert (card / "models/assistant/current").readlink() == Path("1.0.0")
    assert oct((card / "identity").stat().st_mode)[-3:] == "700"
    assert oct((card / "identity/device.key").stat().st_mode)[-3:] == "600"
    assert (card / "activation").stat().st_uid == 65534
    assert label(disk) == "hedgerow-data"
    assert not partition.ASIDE.exists(), "keys do not stay on the card"


def test_a_second_run_changes_nothing(card: Path, disk: str) -> None:
    partition.prepare(disk, may_format=True)
    assert partition.prepare(disk, may_format=False) == {"changed": False, "steps": []}


def test_f15_nobody_writes_to_the_card_while_the_disk_is_missing(card: Path, disk: str) -> None:
    partition.prepare(disk, may_format=True)
    run("umount", str(card))
    with pytest.raises(PermissionError):
        (card / "models").mkdir()
    partition.prepare(disk, may_format=False)
    assert is_mounted(card, disk)
    assert (card / "identity/device.key").read_bytes() == b"secret\n"


def test_a_disk_of_ours_is_taken_over_by_a_board_with_an_empty_folder(card: Path, disk: str) -> None:
    partition.prepare(disk, may_format=True)
    run("umount", str(card))
    run("chattr", "-i", str(card))
    card.rmdir()
    card.mkdir()
    partition.prepare(disk, may_format=False)
    assert (card / "identity/device.key").exists()


def test_two_truths_are_refused_and_neither_is_lost(card: Path, disk: str) -> None:
    partition.prepare(disk, may_format=True)
    run("umount", str(card))
    run("chattr", "-i", str(card))
    (card / "newer.txt").write_text("of the card")
    with pytest.raises(PartitionError, match="has files of its own"):
        partition.prepare(disk, may_format=True)
    assert (card / "newer.txt").read_text() == "of the card"
    assert label(disk) == "hedgerow-data"


def test_without_the_word_an_empty_disk_stays_empty(card: Path, disk: str) -> None:
    with pytest.raises(PartitionError, match="was not confirmed"):
        partition.prepare(disk, may_format=False)
    assert partition.why_not_empty(disk) is None


@pytest.mark.parametrize(
    "make",
    [
        ["mkfs.ext4", "-q", "-L", "photos"],
        ["mkfs.ext4", "-q"],
        ["mkswap"],
    ],
    ids=" ".join,
)
def test_what_carries_anything_is_refused_with_the_word_too(card: Path, disk: str, make: list[str]) -> None:
    run(*make, disk)
    before = hashlib.sha256(Path(disk).read_bytes()).hexdigest()
    with pytest.raises(PartitionError, match="is not empty and not Hedgerow's") as caught:
        partition.prepare(disk, may_format=True)
    assert "wipefs --all" in (caught.value.next_step or "")
    assert hashlib.sha256(Path(disk).read_bytes()).hexdigest() == before
    assert tree(card) == WANTED


def test_a_partition_table_alone_is_something(card: Path, disk: str) -> None:
    entry = bytes([0, 0, 2, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little") + (4096).to_bytes(4, "little")
    with Path(disk).open("r+b") as file:
        file.seek(446)
        file.write(entry.ljust(64, b"\0") + b"\x55\xaa")
    with pytest.raises(PartitionError, match="it carries dos"):
        partition.prepare(disk, may_format=True)


def test_a_mounted_disk_is_refused(card: Path, disk: str, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", disk)
    (tmp_path / "m").mkdir()
    run("mount", disk, str(tmp_path / "m"))
    with pytest.raises(PartitionError, match="is mounted on"):
        partition.prepare(disk, may_format=True)


def test_the_disk_below_root_is_refused(card: Path, disk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "_root_source", lambda: disk)
    with pytest.raises(PartitionError, match="this host runs from"):
        partition.prepare(disk, may_format=True)


def test_what_is_no_disk_is_refused(card: Path, tmp_path: Path) -> None:
    with pytest.raises(PartitionError, match="is not there"):
        partition.prepare(str(tmp_path / "none"), may_format=True)
    with pytest.raises(PartitionError, match="no block device"):
        partition.prepare(str(card / "identity/device.key"), may_format=True)


def _prepare_and_cut(disk: str, number: int) -> int:
    """Run it in a process that is killed, with no clean-up, before its ``number``-th step; how many steps it did."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        os.waitpid(child, 0)
        with os.fdopen(reader, "rb") as file:
            return len(file.read())
    real = partition._run
    done = itertools.count()

    def cutting(*command: str, **keywords: Any) -> Any:
        if command[0] in {"mkfs.ext4", "mount", "umount", "sync", "e2label", "chattr"}:
            if next(done) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(writer, b".")
        return real(*command, **keywords)

    partition._run = cutting
    with contextlib.suppress(BaseException):
        partition.prepare(disk, may_format=True)
    os._exit(0)


STEPS = 7  # mkfs, mount, sync, umount, e2label, chattr, mount: what a whole run does


@pytest.mark.parametrize("number", range(STEPS + 1))
def test_cut_off_anywhere_the_content_is_whole_and_the_next_run_ends_it(
    card: Path, disk: str, number: int, tmp_path: Path
) -> None:
    assert _prepare_and_cut(disk, number) == number
    # A boot: what the run had mounted is not, what it had in memory is gone.
    for place in (tmp_path / "work/new", card):
        subprocess.run(["umount", str(place)], capture_output=True, check=False)
    shutil.rmtree(tmp_path / "work", ignore_errors=True)
    whole = [place for place in (card, partition.ASIDE) if place.exists() and tree(place) == WANTED]
    assert whole or number == STEPS, "the content is nowhere whole on the card"
    partition.prepare(disk, may_format=True)
    assert is_mounted(card, disk)
    assert tree(card) == WANTED
    assert not partition.ASIDE.exists()


def test_a_card_s_copy_that_a_cut_left_behind_goes(card: Path, disk: str) -> None:
    partition.prepare(disk, may_format=True)
    (partition.ASIDE / "identity").mkdir(parents=True)
    assert partition.prepare(disk, may_format=False)["steps"] == ["removed what was left of the card's copy"]
    assert not partition.ASIDE.exists()


def test_a_copy_that_differs_is_not_switched_to(card: Path, disk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = partition._copy

    def lossy(source: Path, target: Path) -> None:
        copy(source, target)
        (target / "identity/device.key").write_bytes(b"Secret\n")

    monkeypatch.setattr(partition, "_copy", lossy)
    with pytest.raises(PartitionError, match=r"the copy differs from the card: identity/device\.key"):
        partition.prepare(disk, may_format=True)
    assert tree(card) == WANTED
    assert label(disk) == "hedgerow-new"


def test_a_disk_that_is_too_small_leaves_the_card_as_it_was(card: Path, disk: str) -> None:
    (card / "big").write_bytes(os.urandom(80 * 2**20))
    with pytest.raises(PartitionError, match="could not be copied, it is untouched"):
        partition.prepare(disk, may_format=True)
    assert (card / "big").stat().st_size == 80 * 2**20
    assert (card / "identity/device.key").exists()


def test_two_runs_at_once_are_one_too_many(card: Path, disk: str) -> None:
    with partition._worked(), pytest.raises(PartitionError, match="another run works"):
        partition.prepare(disk, may_format=True)
