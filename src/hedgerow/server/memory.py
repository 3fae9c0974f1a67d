"""How much memory a model takes: measured around its load, by what the kernel counts for this process.

And how it comes back: what the C library's allocator is told (``settle``, ``trim``).

- The measure is anonymous memory, in RAM or swapped out (``/proc/self/smaps``). It is this process's alone: PSS would
  fall by megabytes whenever another process starts that maps the same libraries, as each worker does. A library's own
  pages are the page cache's, and no model's. What Python and the allocator hold back of things that are gone is
  returned first, so that it is not counted as free room.
- Files of the model that are mapped count whole: their pages come as they are first read, which may be long after.
- It is a difference, so what requests on other models take meanwhile is in it. Caches that grow with requests are not.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from hedgerow.errors import MachineError

SMAPS: Final = Path("/proc/self/smaps")
_KB: Final = 1024
# A mapping's first line: addresses, rights, offset, device, inode, and the path where it has one (proc_pid_smaps(5)).
_HEAD: Final = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)$")

# Fields of a mapping, in kB (the kernel's Documentation/filesystems/proc.rst): anonymous pages present, those swapped
# out, and those given back that the kernel has not taken yet (MADV_FREE).
_COUNTED: Final = {"Anonymous": 1, "Swap": 1, "LazyFree": -1}

# mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_MIB: Final = 1024 * _KB
# Larger blocks are weights and the runtimes' own pools: mapped one by one, each is given back when it is freed. Smaller
# ones are requests' bodies, which would be paid for page by page if they were mapped each time.
_MAPPED_FROM: Final = _MIB
# Of what is free at the heap's end so much is kept for the next requests: those of sixteen callers with a picture each.
_KEPT: Final = 16 * _MIB

T = TypeVar("T")


@dataclass(frozen=True)
class Usage:
    """Bytes: ``own`` of all mappings that are none of the model's files, ``mapped`` of these whole."""

    own: int
    mapped: int


def parse(text: str, folder: str) -> Usage:
    """``/proc/self/smaps``, with the files below ``folder`` apart. Pure."""
    own = mapped = 0
    inside = False
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head is not None:
            inside = head[1].startswith(f"{folder}/")
            continue
        field, _, value = line.partition(":")
        if inside and field == "Size":
            mapped += int(value.split()[0]) * _KB
        elif not inside and field in _COUNTED:
            own += _COUNTED[field] * int(value.split()[0]) * _KB
    return Usage(own, mapped)


def measured(folder: Path, load: Callable[[], T]) -> tuple[T, int]:
    """What ``load`` returns, and the bytes that the process has more behind it. Blocks.

    Raises:
        MachineError: the kernel does not say. Whatever ``load`` raises.
    """
    home = str(folder.resolve())
    before = _usage(home)
    loaded = load()
    after = _usage(home)
    return loaded, max(0, after.own - before.own) + max(0, after.mapped - before.mapped)


def _usage(folder: str) -> Usage:
    gc.collect()
    trim()
    try:
        return parse(SMAPS.read_text(encoding="utf-8", errors="replace"), folder)
    except OSError as error:
        raise MachineError(
            f"the memory of this process cannot be measured: {error.strerror}",
            where=str(SMAPS),
            next_step="serve without --memory-budget and --keep-alive",
        ) from error


def settle() -> None:
    """Have the allocator keep to one heap, and map large blocks apart. Once, before there are threads.

    glibc makes a heap for each thread that finds the others busy (sixteen on two cores), and raises the size from which
    blocks are mapped to that of the largest that was ever freed: a model's. From the first swap on, weights then lie
    among requests' bodies in a heap of whichever thread loaded them, and what is freed between two that live stays with
    the process: 105 MB were in use, and 275 MB held, after 15 swaps under sixteen callers. An operator who tells the
    allocator something is obeyed.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(AttributeError):  # another C library has no such call
        mallopt = ctypes.CDLL(None).mallopt
        for what, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _MAPPED_FROM), (_TRIM_THRESHOLD, _KEPT)):
            mallopt(what, value)


def trim() -> None:
    """Have the allocator return free pages; other C libraries than glibc have no such call, and keep fewer."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
