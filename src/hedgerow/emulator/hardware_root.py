"""Keep a rendered board on disk: the folder that a guest sees as ``/hardware``.

The folder is bind-mounted whole, so a file replaced by rename is seen by the
guest at once, and is never seen half-written.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from hedgerow import atomic
from hedgerow.emulator import board as boards
from hedgerow.emulator import eeprom
from hedgerow.emulator.board import Board, Entry, Link
from hedgerow.emulator.values import Values

# Written by the guest or once at creation; rendering leaves them alone.
_NOT_RENDERED = (
    "console",
    "first-boot",
    "power",
    "flash",
    "firmware/bootloader",
    "dev/",
    "proc/cmdline",
    "proc/device-tree/aliases",
    "proc/device-tree/chosen/bootloader",
    "proc/sys/kernel/random",
    "proc/modules",
    boards.KERNEL,
    "sys/bus/nvmem",
    "sys/bus/pci/drivers",
    *(f"sys/bus/pci/devices/{boards.PCI_ADDRESS}/{name}" for name in ("driver", "reset")),
    "sys/class/hailo",
    "sys/module",
)
# Rendered as the factory left it, and from the first boot on the bootloader's: its build may have been updated.
_BOOTLOADER_S = "proc/device-tree/chosen/bootloader/"


class HardwareRoot:
    """``folder`` holds ``hardware/`` (what the guest sees) and ``values.json`` (what it is rendered from)."""

    def __init__(self, folder: Path, board: Board) -> None:
        self.folder = folder
        self.board = board
        self.path = folder / "hardware"
        self._values = folder / "values.json"

    def exists(self) -> bool:
        return self._values.is_file()

    def create(self, values: Values, authorized_key: str) -> None:
        """Start afresh: a new board with ``values`` and the operator's key for its first boot."""
        shutil.rmtree(self.folder, ignore_errors=True)
        _write(self.path / "first-boot/authorized_keys", authorized_key.encode())
        _write(self.path / "flash/pieeprom.bin", eeprom.released(self.board.bootloader))
        _write(self.path / boards.KERNEL, f"{boards.KERNEL_RELEASE}\n".encode())
        self.write(values)

    def mark_cold_boot(self) -> None:
        """Power came back: the guest's next boot is a cold one. It takes the mark away; a boot without one is warm."""
        _write(self.path / "power/cold-boot", b"")

    def read(self) -> Values:
        return msgspec.json.decode(self._values.read_bytes(), type=Values)

    def write(self, values: Values) -> None:
        """Render ``values``; files that the board no longer has go."""
        wanted = boards.render(self.board, values)
        for relative, entry in wanted.items():
            if not (relative.startswith(_BOOTLOADER_S) and (self.path / relative).exists()):
                _write(self.path / relative, entry)
        for file in sorted(self.path.rglob("*"), reverse=True):
            relative = str(file.relative_to(self.path))
            if relative in wanted or relative.startswith(_NOT_RENDERED):
                continue
            if file.is_symlink() or file.is_file():
                file.unlink()
            elif not any(file.iterdir()):
                file.rmdir()
        atomic.write_bytes(self._values, msgspec.json.encode(values))


def _write(path: Path, entry: Entry) -> None:
    """Put ``entry`` at ``path`` by rename, unless it is there already. No fsync: a new ``up`` renders it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    if isinstance(entry, Link):
        if path.is_symlink() and str(path.readlink()) == entry.target:
            return
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(entry.target)
    else:
        if path.is_file() and path.read_bytes() == entry:
            return
        temporary.write_bytes(entry)
    temporary.replace(path)
