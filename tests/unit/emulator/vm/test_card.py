"""The card's partition table, and its boot partition read as the firmware does."""

from __future__ import annotations

import shutil
import struct
import subprocess

import pytest

from hedgerow.emulator.vm import card, image
from hedgerow.errors import MachineError

needs_tools = pytest.mark.skipif(
    shutil.which("qemu-img") is None or shutil.which("mformat") is None, reason="qemu-utils or mtools is not installed"
)


def test_the_table_has_two_partitions_that_meet_and_the_identity_of_the_root_device():
    sector = card.partition_table()
    assert len(sector) == 512
    assert sector[510:] == b"\x55\xaa"
    assert f"{struct.unpack('<I', sector[440:444])[0]:08x}" == card.DISK_ID
    rows = [struct.unpack("<B3sB3sII", sector[446 + 16 * row : 462 + 16 * row]) for row in range(4)]
    (_, _, fat, _, start, size), (_, _, linux, _, root, rest), *empty = rows
    assert (fat, linux) == (0x0C, 0x83)
    assert start + size == root
    assert (root + rest) * 512 == card.SIZE
    assert all(row == (0, b"\0\0\0", 0, b"\0\0\0", 0, 0) for row in empty)


def test_the_guest_mounts_what_the_table_says():
    fstab = (image.GUEST / "etc/fstab").read_text()
    cmdline = (image.GUEST / "boot/firmware/cmdline.txt").read_text()
    assert f"PARTUUID={card.DISK_ID}-01 /boot/firmware vfat" in fstab
    assert f"root=PARTUUID={card.DISK_ID}-02 " in cmdline


@needs_tools
def test_files_of_the_boot_partition_are_read_through_a_copy_on_write_card(tmp_path):
    root = tmp_path / "root"
    (root / "boot/firmware").mkdir(parents=True)
    (root / "boot/firmware/config.txt").write_text("a=1\n")
    (root / "etc").mkdir()
    image._lay_out(tmp_path / "card.img", root)
    run = lambda *words: subprocess.run(words, check=True, capture_output=True)  # noqa: E731
    run("qemu-img", "convert", "-O", "qcow2", tmp_path / "card.img", tmp_path / "card.qcow2")
    run("qemu-img", "create", "-f", "qcow2", "-F", "qcow2", "-b", tmp_path / "card.qcow2", tmp_path / "disk.qcow2")
    with card.boot_partition(tmp_path / "disk.qcow2", tmp_path) as read:
        assert read("config.txt") == b"a=1\n"
        assert read("CONFIG.TXT") == b"a=1\n", "FAT knows no case"
        assert read("tryboot.txt") is None
    assert not (tmp_path / "partition.img").exists()


@needs_tools
def test_a_card_that_is_none_is_said(tmp_path):
    (tmp_path / "disk.qcow2").write_bytes(b"no card")
    with (
        pytest.raises(MachineError, match="cannot read the card"),
        card.boot_partition(tmp_path / "disk.qcow2", tmp_path),
    ):
        pass
