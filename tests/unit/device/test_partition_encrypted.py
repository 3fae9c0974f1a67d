"""The order of an encrypted disk's making, with programs that only remember: real LUKS and TPM are in `tests/vm`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hedgerow.device import partition
from hedgerow.device.partition import PartitionError

KEY = "abcd-" * 12 + "efgh"
DISK = "/dev/vdb"


class Board:
    """What programs would find and do, in memory: two labels, a TPM's slots, what is open and mounted."""

    def __init__(self, tmp_path: Path) -> None:
        self.mapper = tmp_path / "mapper"
        self.device = tmp_path / "dm-0"
        self.device.touch()
        self.luks: str | None = None
        self.label: str | None = None
        self.slots: list[str] = []
        self.tpm = "first"
        self.ran: list[str] = []
        self.dies_before: str | None = None
        self.mounted: set[str] = set()
        self.states: dict[str, str] = {}

    def run(
        self, *command: str, codes: tuple[int, ...] | None = (0,), secret: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        line = " ".join(command)
        if self.dies_before is not None and self.dies_before in line:
            raise KeyboardInterrupt
        assert KEY not in line, "a process list would show it"
        self.ran.append(line)
        out, code = self.answer(list(command), secret)
        if codes is not None and code not in codes:
            raise PartitionError(line)
        return subprocess.CompletedProcess(command, code, out, "refused")

    def answer(self, command: list[str], secret: str | None) -> tuple[str, int]:
        if command[0] == "cryptsetup":
            return self.cryptsetup(command, secret)
        simple = getattr(self, command[0].replace("-", "_").replace(".", "_"), None)
        return ("", 0) if simple is None else simple(command)

    def systemctl(self, command: list[str]) -> tuple[str, int]:
        state = self.states.get(command[-1], "inactive")
        return (f"{state}\n", 0 if state == "active" else 3) if command[1] == "is-active" else ("", 0)

    def blkid(self, command: list[str]) -> tuple[str, int]:
        kind, label = ("crypto_LUKS", self.luks) if command[-1] == DISK else ("ext4", self.label)
        return (f"TYPE={kind}\nLABEL={label}\n", 0) if label else ("", 2)

    def lsblk(self, command: list[str]) -> tuple[str, int]:
        # A mapping is named by its link, while everything below is asked by what the link leads to.
        rows = [{"name": command[-1], "type": "crypt", "mountpoints": [None]}]
        return json.dumps({"blockdevices": rows}), 0

    def findmnt(self, command: list[str]) -> tuple[str, int]:
        return (str(self.mapper), 0) if command[-1] in self.mounted else ("", 1)

    def mount(self, command: list[str]) -> tuple[str, int]:
        self.mounted.add(command[-1])
        return "", 0

    def umount(self, command: list[str]) -> tuple[str, int]:
        self.mounted.discard(command[-1])
        return "", 0

    def mkfs_ext4(self, command: list[str]) -> tuple[str, int]:
        self.label = command[command.index("-L") + 1]
        return "", 0

    def e2label(self, command: list[str]) -> tuple[str, int]:
        self.label = command[2]
        return "", 0

    def cryptsetup(self, command: list[str], secret: str | None) -> tuple[str, int]:
        if command[1] == "luksFormat":
            assert secret == KEY
            self.luks, self.label, self.slots = command[command.index("--label") + 1], None, ["password"]
        elif command[1] == "config":
            self.luks = command[3]
        elif command[1] == "open":
            file = Path(command[command.index("--key-file") + 1])
            assert file.stat().st_mode & 0o777 == 0o600
            return "", 0 if file.read_text() == KEY else 2
        else:
            self.mapper.unlink()
        return "", 0

    def systemd_cryptenroll(self, command: list[str]) -> tuple[str, int]:
        if "--wipe-slot=tpm2" in command:
            self.slots = [slot for slot in self.slots if not slot.startswith("tpm2:")]
            return "", 0
        file = Path(next(word for word in command if word.startswith("--unlock-key-file=")).partition("=")[2])
        assert (file.read_text(), file.stat().st_mode & 0o777) == (KEY, 0o600)
        # As the real one: a policy that stands there is "already enrolled", whichever TPM's it is.
        if not any(slot.startswith("tpm2:") for slot in self.slots):
            self.slots.append(f"tpm2:{self.tpm}")
        return "", 0

    def systemd_cryptsetup(self, command: list[str]) -> tuple[str, int]:
        if f"tpm2:{self.tpm}" not in self.slots:
            return "", 1
        self.mapper.symlink_to(self.device)
        return "", 0

    def position(self, text: str) -> int:
        return next(index for index, line in enumerate(self.ran) if text in line)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    board = Board(tmp_path)
    target = tmp_path / "hedgerow"
    (target / "identity").mkdir(parents=True)
    (target / "identity/device.key").write_text("secret")
    for name, value in {
        "TARGET": target,
        "ASIDE": tmp_path / "hedgerow.card",
        "WORK": tmp_path / "work",
        "MAPPED": board.mapper,
        "_UNITS": (),
        "_run": board.run,
        "_block_device": lambda device: device,
        "_has_tpm": lambda: board.tpm != "none",
    }.items():
        monkeypatch.setattr(partition, name, value)
    return board


def prepare(*, may_format: bool = False, enrol: bool = False, key: str = KEY) -> dict[str, Any]:
    return partition.prepare(DISK, may_format=may_format, encrypt={"recovery_key": key, "pcrs": "7", "enrol": enrol})


def test_the_tpm_opens_it_before_anything_is_on_it_and_the_name_ours_comes_last(board: Board, tmp_path: Path) -> None:
    prepare(may_format=True)
    order = ["luksFormat", "systemd-cryptenroll", "systemd-cryptsetup attach", "mkfs.ext4", "e2label",
             "config --label hedgerow-luks /", "mount -t ext4 -o noatime"]  # fmt: skip
    places = [board.position(text) for text in order[:-1]]
    assert places == sorted(places)
    assert "--tpm2-pcrs=7" in " ".join(board.ran)
    assert (board.luks, board.label, board.slots) == ("hedgerow-luks", "hedgerow-data", ["password", "tpm2:first"])
    assert [path.name for path in (tmp_path / "work").iterdir() if path.is_file()] == [], (
        "no key stays, in memory either"
    )


@pytest.mark.parametrize(
    "step",
    ["luksFormat", "systemd-cryptenroll", "attach", "mkfs.ext4", "sync", "e2label", "config --label", "chattr +i"],
)
def test_cut_off_anywhere_the_same_word_ends_it(board: Board, step: str) -> None:
    board.dies_before = step
    with pytest.raises(KeyboardInterrupt):
        prepare(may_format=True)
    assert any(place.exists() for place in (partition.TARGET / "identity", partition.ASIDE / "identity"))
    board.dies_before = None
    # What role and plan would say: a finished disk is not formatted again, whatever was typed.
    prepare(may_format=board.luks != "hedgerow-luks")
    assert (board.luks, board.label) == ("hedgerow-luks", "hedgerow-data")
    assert str(partition.TARGET) in board.mounted


def test_without_a_tpm_nothing_is_encrypted(board: Board) -> None:
    board.tpm = "none"
    with pytest.raises(PartitionError, match=r"no TPM 2\.0"):
        prepare(may_format=True)
    assert board.luks is None


def test_without_the_word_nothing_is_encrypted(board: Board) -> None:
    with pytest.raises(PartitionError, match="was not confirmed"):
        prepare()
    assert board.luks is None


def test_another_tpm_is_refused_with_what_to_type_and_bound_on_demand(board: Board) -> None:
    prepare(may_format=True)
    board.mapper.unlink()
    board.mounted.clear()
    board.tpm = "second"
    with pytest.raises(PartitionError, match="the TPM does not unlock it") as caught:
        prepare(key="")
    assert "storage_data_rebind" in (caught.value.next_step or "")
    prepare(enrol=True)
    assert board.slots == ["password", "tpm2:second"]
    assert str(partition.TARGET) in board.mounted


def test_with_another_disks_recovery_key_nothing_is_unbound(board: Board) -> None:
    prepare(may_format=True)
    with pytest.raises(PartitionError, match="recovery key does not open it"):
        prepare(enrol=True, key="wxyz-" * 12 + "wxyz")
    assert board.slots == ["password", "tpm2:first"]


def test_what_is_just_starting_is_stopped_too_before_anything_is_copied(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline's service is a program that ends: it is starting until it has ended, and writes its lock."""
    board.states = {"serves": "active", "ends": "activating", "off": "inactive", "broken": "failed"}
    monkeypatch.setattr(partition, "_UNITS", tuple(board.states))
    prepare(may_format=True)
    assert board.position("systemctl stop serves ends") < board.position("sync --file-system")
