"""Read the boot partition of a machine's card while the machine is off, as the boot firmware does.

The card is a qcow2 file with a backing file; QEMU's own tool copies the partition out of it (only what is not empty),
mtools read the files. Nothing is ever written: what the guest should see, the guest writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from hedgerow.emulator.vm.firmware import Reader
from hedgerow.errors import MachineError

SECTOR = 512
MIB = 1 << 20
# As an imager lays out a card: a FAT boot partition, then the root. The identity is what PARTUUID= refers to.
BOOT_START, BOOT_SIZE = 1 * MIB, 256 * MIB
ROOT_START = BOOT_START + BOOT_SIZE
SIZE = 8192 * MIB
DISK_ID = "68656467"

_NO_CHS = b"\xfe\xff\xff"

# A partition that was mounted when the power went is marked so; its files are to be read all the same.
ENVIRONMENT = {"MTOOLS_SKIP_CHECK": "1"}


def partition_table() -> bytes:
    """The card's first sector: a DOS partition table with our identity and two primary partitions."""
    rows = ((0x0C, BOOT_START, BOOT_SIZE), (0x83, ROOT_START, SIZE - ROOT_START))
    # Status, three bytes of cylinder addresses that nobody reads (0xFFFFFE: "see the sectors"), type, twice more.
    entries = b"".join(
        struct.pack("<B3sB3sII", 0, _NO_CHS, kind, _NO_CHS, start // SECTOR, size // SECTOR)
        for kind, start, size in rows
    )
    identity = struct.pack("<IH", int(DISK_ID, 16), 0)
    return b"\0" * 440 + identity + entries.ljust(64, b"\0") + b"\x55\xaa"


@contextlib.contextmanager
def boot_partition(disk: Path, scratch: Path) -> Iterator[Reader]:
    """A reader of the partition's files, by name."""
    image = scratch / "partition.img"
    source = {
        "driver": "raw",
        "offset": BOOT_START,
        "size": BOOT_SIZE,
        "file": {"driver": "qcow2", "file": {"driver": "file", "filename": str(disk)}},
    }
    done = subprocess.run(
        ["qemu-img", "convert", "-O", "raw", f"json:{json.dumps(source)}", str(image)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise MachineError(f"qemu-img cannot read the card: {done.stderr.strip()}", where=str(disk))
    known: dict[str, bytes | None] = {}

    def read(name: str) -> bytes | None:
        if name not in known:
            found = subprocess.run(
                ["mcopy", "-n", "-i", str(image), f"::{name}", "-"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                env={**os.environ, **ENVIRONMENT},
            )
            known[name] = found.stdout if found.returncode == 0 else None
        return known[name]

    try:
        yield read
    finally:
        image.unlink(missing_ok=True)
