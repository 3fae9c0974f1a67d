"""What a host's disks are: mounts, block devices and their signatures, wear, swap, and what fails on them.

The standard library alone: the controller sends this file's source to hosts
(``hedgerow.remote_script``, with the other facts). It reads, it never writes, and it
starts one program: ``lsblk``, which tells signatures from udev's database and so
wakes no disk.

- Disks belong to the running system: they are never redirected to another hardware root.
- In a container ``devices`` and ``wear`` are empty. What is to be seen there are the disks of the machine
  below, and nobody may take one of them for the host's own.
- None means unknown. Parsers are pure functions of text.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

_TIMEOUT_S = 15
_SECTOR = 512  # bytes: /sys/block/*/stat counts these whatever the disk's own sectors are
_SECTORS_WRITTEN = 6  # the seventh field
_COLUMNS = "NAME,PATH,MAJ:MIN,TYPE,SIZE,FSTYPE,LABEL,UUID,PTTYPE,PKNAME,MOUNTPOINTS,RO,RM,TRAN,MODEL,SERIAL"
# Filesystems that lie on something; the rest are the kernel's views of itself.
_ON_DISK = frozenset({"ext2", "ext3", "ext4", "vfat", "exfat", "f2fs", "btrfs", "xfs", "squashfs", "overlay", "tmpfs"})
_TOLD = ("/", "/boot/firmware", "/tmp", "/var", "/var/log", "/var/tmp", "/var/lib/hedgerow")  # noqa: S108 - only named


def read() -> dict[str, Any]:
    """Read everything that role ``storage`` decides from. Sizes are MiB, times seconds since the epoch."""
    container = Path("/run/systemd/container").exists() or Path("/run/.containerenv").exists()
    mounts = parse_mountinfo(_text(Path("/proc/self/mountinfo")))
    told = [mount | _space(mount["path"]) for mount in mounts if mount["path"] in _TOLD or mount["type"] == "ext4"]
    root = next((mount for mount in told if mount["path"] == "/"), None)
    return {
        "mounts": told,
        "root": {
            "source": root["source"] if root else None,
            "type": root["type"] if root else None,
            "read_only": root["read_only"] if root else None,
        },
        "devices": [] if container else _devices(),
        "ext4": {} if container else _ext4(Path("/sys/fs/ext4")),
        "wear": {} if container else _wear(Path("/sys/block")),
        "swaps": [] if container else parse_swaps(_text(Path("/proc/swaps"))),
        "zram_backing": None if container else _text(Path("/sys/block/zram0/backing_dev"), missing="").strip() or None,
        "tpm2": not container and _text(Path("/sys/class/tpm/tpm0/tpm_version_major")).strip() == "2",
        "crypttab": _text(Path("/etc/crypttab"), missing=None),
        "fstab_swaps": parse_fstab_swaps(_text(Path("/etc/fstab"))),
        "left_on_card": Path("/var/lib/hedgerow.card").exists(),
        "journal_mb": _size_mb(Path("/var/log/journal")),
    }


# -- parsers ---------------------------------------------------------------


def parse_mountinfo(text: str) -> list[dict[str, Any]]:
    """``/proc/self/mountinfo`` (proc(5)): the topmost mount of each path, filesystems on something only.

    A filesystem that the kernel remounted after an error shows ``ro`` in its super options, one that somebody
    mounted so also in the mount's own; either way nobody can write.
    """
    found: dict[str, dict[str, Any]] = {}
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if not separator or len(left) < 6 or len(right) < 3 or right[0] not in _ON_DISK:  # noqa: PLR2004 - proc(5)
            continue
        options = [*left[5].split(","), *right[2].split(",")]
        path = _unescape(left[4])
        found[path] = {
            "path": path,
            "source": _unescape(right[1]),
            "type": right[0],
            "device": left[2],
            "read_only": "ro" in options,
            "options": sorted({option for option in options if option not in {"rw", "ro"}}),
        }
    return list(found.values())


def parse_lsblk(text: str) -> list[dict[str, Any]]:
    """``lsblk --json --list --bytes`` with ``_COLUMNS``."""
    try:
        entries = json.loads(text)["blockdevices"]
    except (ValueError, KeyError, TypeError):
        return []
    return [
        {
            "name": entry["name"],
            "path": entry["path"],
            "number": entry["maj:min"],
            "type": entry["type"],
            "size_mb": None if entry["size"] is None else int(entry["size"]) // 2**20,
            "fstype": entry["fstype"],
            "label": entry["label"],
            "uuid": entry["uuid"],
            "table": entry["pttype"] if entry["type"] == "disk" else None,
            "parent": entry["pkname"],
            "mountpoints": [place for place in entry["mountpoints"] or [] if place],
            "read_only": bool(entry["ro"]),
            "removable": bool(entry["rm"]),
            "bus": entry["tran"],
            "model": entry["model"],
            "serial": entry["serial"],
        }
        for entry in entries
    ]


def parse_swaps(text: str) -> list[dict[str, Any]]:
    """``/proc/swaps``: sizes are KiB there."""
    return [
        {"path": _unescape(fields[0]), "type": fields[1], "size_mb": int(fields[2]) // 1024}
        for fields in (line.split() for line in text.splitlines()[1:])
        if len(fields) == 5  # noqa: PLR2004 - Filename Type Size Used Priority
    ]


def parse_fstab_swaps(text: str) -> list[str]:
    """What ``/etc/fstab`` takes as swap."""
    rows = (line.partition("#")[0].split() for line in text.splitlines())
    return [_unescape(fields[0]) for fields in rows if len(fields) > 2 and fields[2] == "swap"]  # noqa: PLR2004


def parse_written_mb(text: str) -> int | None:
    """MiB written since boot, of ``/sys/block/*/stat``."""
    fields = text.split()
    return int(fields[_SECTORS_WRITTEN]) * _SECTOR // 2**20 if len(fields) > _SECTORS_WRITTEN else None


def parse_life_time(text: str) -> int | None:
    """The larger of an eMMC's two ``life_time`` figures, as percent used (0x01 is 0-10, 0x0b is beyond its life)."""
    figures: list[int] = [int(figure, 16) for figure in re.findall(r"0x[0-9a-fA-F]{1,2}", text)]
    return max(figures, default=0) * 10 or None


# -- reading ---------------------------------------------------------------


def _devices() -> list[dict[str, Any]]:
    devices = parse_lsblk(_output("lsblk", "--json", "--list", "--bytes", "--output", _COLUMNS))
    links = _links(Path("/dev/disk"))
    return [device | {"links": links.get(device["path"], [])} for device in devices]


def _links(folder: Path) -> dict[str, list[str]]:
    """Device → the stable names that udev gave it."""
    found: dict[str, list[str]] = {}
    for link in sorted(folder.glob("by-*/*")):
        found.setdefault(os.path.realpath(link), []).append(str(link))
    return found


def _ext4(folder: Path) -> dict[str, dict[str, int | None]]:
    """Device → errors that ext4 has written into its superblock; they outlast reboots until a fsck repairs them."""
    return {
        place.parent.name: {
            "errors": _integer(place),
            "first": _integer(place.with_name("first_error_time")),
            "last": _integer(place.with_name("last_error_time")),
        }
        for place in sorted(folder.glob("*/errors_count"))
    }


def _wear(folder: Path) -> dict[str, dict[str, Any]]:
    """Card or eMMC → what stands for its age: an SD card has no portable SMART (facts §6.2)."""
    return {
        disk.name: {
            "written_mb": parse_written_mb(_text(disk / "stat")),
            **{key: _text(disk / "device" / key).strip() or None for key in ("name", "manfid", "date", "cid")},
            "life_used_percent": parse_life_time(_text(disk / "device/life_time")),
            "pre_eol_info": _text(disk / "device/pre_eol_info").strip() or None,
        }
        for disk in sorted(folder.glob("mmcblk[0-9]"))
    }


def _space(path: str) -> dict[str, int | None]:
    try:
        status = os.statvfs(path)
    except OSError:
        return {"size_mb": None, "free_mb": None, "inodes_free_percent": None}
    return {
        "size_mb": status.f_blocks * status.f_frsize // 2**20,
        "free_mb": status.f_bavail * status.f_frsize // 2**20,
        # FAT and btrfs count no inodes.
        "inodes_free_percent": status.f_favail * 100 // status.f_files if status.f_files else None,
    }


def _size_mb(folder: Path) -> int | None:
    """MiB that the files of a folder take on disk; None where it is not there."""
    if not folder.is_dir():
        return None
    return sum(file.stat().st_blocks * _SECTOR for file in folder.rglob("*") if file.is_file()) // 2**20


def _integer(path: Path) -> int | None:
    try:
        return int(_text(path).strip())
    except ValueError:
        return None


def _unescape(text: str) -> str:
    """Octal escapes of blanks in /proc and fstab."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _text(path: Path, *, missing: Any = "") -> Any:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return missing


def _output(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
