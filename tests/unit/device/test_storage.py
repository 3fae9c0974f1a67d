from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hedgerow.converge import storage as converge_storage
from hedgerow.device import storage

# Shape as proc(5) documents it; a board's card with an error, a bind and kernel filesystems beside.
MOUNTINFO = """\
22 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 ro,errors=remount-ro
23 22 0:21 / /proc rw,nosuid shared:2 - proc proc rw
30 22 179:1 / /boot/firmware rw,relatime shared:9 - vfat /dev/mmcblk0p1 rw,fmask=0022
31 22 0:40 / /tmp rw,nosuid,nodev - tmpfs tmpfs rw,size=1g
32 22 8:1 / /mnt/a\\040b ro,relatime - ext4 /dev/sda1 rw
33 32 8:2 / /mnt/a\\040b rw,relatime - ext4 /dev/sda2 rw
broken line
"""


def test_mounts_of_disks_the_topmost_of_each_path() -> None:
    found = {mount["path"]: mount for mount in storage.parse_mountinfo(MOUNTINFO)}
    assert set(found) == {"/", "/boot/firmware", "/tmp", "/mnt/a b"}
    assert found["/mnt/a b"]["device"] == "8:2"
    assert "noatime" in found["/"]["options"]


def test_f15_a_filesystem_that_the_kernel_made_read_only_is_told_by_its_super_options() -> None:
    found = {mount["path"]: mount["read_only"] for mount in storage.parse_mountinfo(MOUNTINFO)}
    assert found == {"/": True, "/boot/firmware": False, "/tmp": False, "/mnt/a b": False}


def test_block_devices() -> None:
    row = {
        "name": "sda1", "path": "/dev/sda1", "maj:min": "8:1", "type": "part", "size": 2**30, "fstype": "ext4",
        "label": "x", "uuid": "u", "pttype": "gpt", "pkname": "sda", "mountpoints": [None, "/mnt"], "ro": False,
        "rm": True, "tran": None, "model": None, "serial": None,
    }  # fmt: skip
    found = storage.parse_lsblk(json.dumps({"blockdevices": [row]}))[0]
    assert (found["size_mb"], found["number"], found["parent"], found["mountpoints"]) == (1024, "8:1", "sda", ["/mnt"])
    assert found["table"] is None, "a partition lies in a table, it has none"
    assert storage.parse_lsblk("lsblk: failed") == []


def test_swaps() -> None:
    text = "Filename\tType\tSize\tUsed\tPriority\n/var/swap  file  524284  0  -2\n/dev/zram0 partition 1048576 0 100\n"
    assert [(swap["path"], swap["size_mb"]) for swap in storage.parse_swaps(text)] == [
        ("/var/swap", 511),
        ("/dev/zram0", 1024),
    ]
    assert storage.parse_fstab_swaps("#/dev/a none swap sw\n/dev/b none swap sw 0 0\n/dev/c / ext4\n") == ["/dev/b"]


def test_written_since_boot_is_the_seventh_field_in_sectors() -> None:
    assert storage.parse_written_mb("  9 0 80 3 7 0 4096 9 0 12 13 0 0 0 0 0 0\n") == 2
    assert storage.parse_written_mb("") is None


@pytest.mark.parametrize("text,percent", [("0x01 0x03\n", 30), ("0x00 0x00", None), ("", None), ("0x0b 0x01", 110)])
def test_life_of_an_emmc(text: str, percent: int | None) -> None:
    assert storage.parse_life_time(text) == percent


def test_wear_and_errors_come_from_sysfs(tmp_path: Path) -> None:
    card = tmp_path / "mmcblk0"
    (card / "device").mkdir(parents=True)
    (card / "stat").write_text("1 2 3 4 5 6 2048 8\n")
    (card / "device/name").write_text("SD32G\n")
    (tmp_path / "sda").mkdir()
    found = storage._wear(tmp_path)
    assert list(found) == ["mmcblk0"]
    assert (found["mmcblk0"]["written_mb"], found["mmcblk0"]["name"], found["mmcblk0"]["cid"]) == (1, "SD32G", None)
    (tmp_path / "mmcblk0p2").mkdir()
    (tmp_path / "mmcblk0p2/errors_count").write_text("4\n")
    assert storage._ext4(tmp_path) == {"mmcblk0p2": {"errors": 4, "first": None, "last": None}}


def test_what_is_read_here_and_now_is_what_the_plan_takes() -> None:
    """As a host runs it: its own process, JSON out; then every key that the plan asks for is there."""
    code = "import json; from hedgerow.device import storage; print(json.dumps(storage.read()))"
    read = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert read["root"]["source"]
    facts = {"packages": {}, "state": {"container": True, "packages": {}, "units": {}, "storage": read}}
    data = {"device": "none", "encrypted": False, "pcrs": "", "format": "", "rebind": ""}
    limits = {"boot_free_mb": 64, "inodes_free_percent": 0}
    plan = converge_storage.plan(facts, {"host": "x", "data": data, "swap": "zram", "limits": limits})
    assert plan["refusals"] == []
