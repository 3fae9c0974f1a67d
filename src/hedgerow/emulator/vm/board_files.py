"""What stands for the board where the guest's own kernel shows nothing: a tar that the guest unpacks to /hardware.

Of the device tree it has links into the guest's real one, which is what the firmware handed over. How this boot began
(cold, or warm with the argument of a reboot) is told here, for the guest files that tell it on.
"""

from __future__ import annotations

import io
import tarfile

from hedgerow.emulator import board as boards
from hedgerow.emulator.board import Link
from hedgerow.emulator.hardware_root import HardwareRoot

_TREE = "proc/device-tree/"
# Written by the guest's bootloader stand-in, which knows what the flash holds by now.
_BOOTLOADER_S = _TREE + "chosen/bootloader/"


def archive(root: HardwareRoot, hostname: str, *, cold: bool, reboot_argument: str = "") -> bytes:
    """The board of ``root`` as it is now."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, entry in boards.render(root.board, root.read()).items():
            if name.startswith(_TREE) and not name.startswith(_BOOTLOADER_S):
                _link(tar, name, f"/{name}")
            elif isinstance(entry, Link):
                _link(tar, name, entry.target)
            else:
                _file(tar, name, entry)
        _file(tar, "hostname", f"{hostname}\n".encode())
        _file(tar, "first-boot/authorized_keys", (root.path / "first-boot/authorized_keys").read_bytes())
        _file(tar, "factory/pieeprom.bin", (root.path / "flash/pieeprom.bin").read_bytes())
        if cold:
            _file(tar, "power/cold-boot", b"")
        elif reboot_argument:
            _file(tar, "power/reboot-param", f"{reboot_argument}\n".encode())
    return buffer.getvalue()


def _file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    tar.addfile(info)
