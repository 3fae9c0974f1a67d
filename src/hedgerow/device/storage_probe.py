"""Ask the root disk for one block, for ever, and keep systemd's watchdog fed only while it answers (F34).

A Pi whose card has died still answers pings: the kernel lives in memory, and PID 1 goes on feeding
the hardware's watchdog. So this process, started while the disk was well, reads the first block of
the device of ``/``, past the page cache (``O_DIRECT``), and tells systemd ``WATCHDOG=1`` after each
answer. A read that fails several times in a row ends it with 1; one that hangs ends it by the
unit's ``WatchdogSec``. Either way the unit's ``FailureAction`` reboots the board. It writes
nothing, so it wears nothing.

Only a disk that answered before may reboot the board: with ``--once``, the unit's condition, it reads one block and
ends. Where that fails (a disk without direct reads, a Python or a sandbox that is broken), the unit is passed over,
or every boot would end in the next.

The standard library alone, run by the system's Python: it must not need the disk once it runs.

Sources: open(2) for O_DIRECT's alignment, sd_notify(3) for the protocol, systemd.service(5).
"""

from __future__ import annotations

import mmap
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

BLOCK = 4096  # a multiple of every logical block size in use; an anonymous map is aligned to the page, which is larger
PERIOD_S = 10.0
FAILURES = 3  # in a row: a single error may be a retried command of the card

_ROOT = re.compile(r"^\d+ \d+ (\d+:\d+) / / ", re.MULTILINE)


def root_device(mountinfo: str) -> Path | None:
    """The block device of ``/`` from ``/proc/self/mountinfo``; None where ``/`` is on none (overlay, network).

    Device numbers with major 0 belong to file systems without a block device.
    """
    match = _ROOT.search(mountinfo)
    if match is None or match[1].startswith("0:"):
        return None
    return Path("/dev/block") / match[1]


def read_block(device: Path) -> None:
    """Read one block past the page cache.

    Raises:
        OSError: the device did not give it.
    """
    # Buffered reads of the same block would be answered from memory for ever.
    descriptor = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, BLOCK) as buffer:
            if os.preadv(descriptor, [buffer], 0) != BLOCK:
                raise OSError(f"{device} gave less than a block")
    finally:
        os.close(descriptor)


def watch(read: Callable[[], None], feed: Callable[[], None], wait: Callable[[], None]) -> int:
    """``read``, ``feed`` after each answer, ``wait``; return 1 after ``FAILURES`` errors in a row."""
    failed = 0
    while failed < FAILURES:
        try:
            read()
        except OSError as error:
            failed += 1
            say(f"the root disk did not answer, {failed} of {FAILURES}: {error}")
        else:
            failed = 0
            feed()
        wait()
    return 1


def notify(text: str) -> None:
    """Tell systemd; nothing where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        # A leading @ stands for the abstract namespace's NUL.
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        sender.sendall(text.encode())


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main(arguments: Sequence[str]) -> int:
    device = root_device(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    if device is None:
        say("the root file system is on no block device: there is nothing to ask")
        return 1
    read_block(device)
    if list(arguments) == ["--once"]:
        return 0
    notify("READY=1")
    return watch(lambda: read_block(device), lambda: notify("WATCHDOG=1"), lambda: time.sleep(PERIOD_S))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
