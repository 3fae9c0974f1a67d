"""The device tree of the virtual board: QEMU's own, with what a Pi 5 says of itself written over it.

The guest's kernel then shows it below /proc/device-tree, as on a board; nothing redirects it.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from hedgerow.emulator import board as boards
from hedgerow.emulator.board import Board
from hedgerow.emulator.values import Values
from hedgerow.emulator.vm import qemu
from hedgerow.emulator.vm.qemu import Machine
from hedgerow.errors import MachineError

_PREFIX = "proc/device-tree/"
# What QEMU's kernel must still find in `compatible`.
_OWN_COMPATIBLE = b"linux,dummy-virt\0"
# Random at QEMU's first writing, the same at every boot from a file: worse than none. virtio-rng has entropy.
_SEEDS = ("kaslr-seed", "rng-seed")
_BOOT_MODE_SD = 1  # facts §2.7


def properties(board: Board, values: Values, *, trial: bool) -> dict[tuple[str, str], bytes]:
    """What to write: (node, property) → value. The board's own files are the source, as for containers."""
    found: dict[tuple[str, str], bytes] = {}
    for path, entry in boards.render(board, values).items():
        if path.startswith(_PREFIX) and isinstance(entry, bytes):
            node, _, name = path.removeprefix(_PREFIX).rpartition("/")
            found["/" + node, name] = entry
    found["/", "compatible"] += _OWN_COMPATIBLE
    bootloader = {"tryboot": int(trial), "partition": 1, "boot-mode": _BOOT_MODE_SD}
    for name, number in bootloader.items():
        found["/chosen/bootloader", name] = struct.pack(">I", number)
    return found


def write(machine: Machine, target: Path, wanted: Mapping[tuple[str, str], bytes]) -> None:
    """Dump the device tree of ``machine`` to ``target`` and put ``wanted`` over it."""
    target.unlink(missing_ok=True)
    _run(*qemu.dump_device_tree(machine, target))
    for seed in _SEEDS:
        if _run("fdtget", "-p", target, "/chosen").splitlines().count(seed):
            _run("fdtput", "-d", target, "/chosen", seed)
    for (node, name), value in wanted.items():
        if node != "/":
            _run("fdtput", "-c", "-p", target, node)
        _run("fdtput", "-t", "bx", target, node, name, *(f"{byte:x}" for byte in value))


def _run(*argv: str | Path) -> str:
    done = subprocess.run([*map(str, argv)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(
            f"{argv[0]} failed: {done.stderr.strip()}", where="device tree", next_step="hedgerow emulate check --vm"
        )
    return done.stdout
