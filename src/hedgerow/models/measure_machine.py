"""The machine that something is measured on: what it is, a throttle for it, and an empty page cache.

A throttle
----------
A hot Pi 5 goes from 2400 to 1500 MHz by steps. Nothing but heat does that to a board, so what is measured here is the
nearest that any Linux machine can be held to: a quota of processor time, 1500 / 2400 of every 10 ms for each thread,
from control groups: through systemd-run where systemd runs, else in a group of our own. A short period, because with
the usual 100 ms a short request runs at full speed and the next one waits. Where neither can be had, throttled figures
are left out, and it is said why.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hedgerow.device import hardware
from hedgerow.registry.manifest import Machine

SHARE: Final = 1500 / 2400
_PERIOD_US: Final = 10_000
_MIB_IN_MB: Final = 1.048576


def describe(root: str | None = None) -> Machine:
    """This machine; ``root`` as ``hedgerow.device.hardware`` takes it."""
    facts = hardware.read(root, with_hailortcli=False)
    base = hardware.hardware_root(root)
    board = facts["board"]
    memory = facts["memory"]["total_mb"] or 0
    hat = facts["hat"].get("kind")
    return Machine(
        model=board["model"] or _text(base / "sys/class/dmi/id/product_name") or f"{platform.machine()} machine",
        processor=_processor(_text(base / "proc/cpuinfo") or ""),
        memory_mb=max(1, round(memory * _MIB_IN_MB)),
        hat=hat if hat in {"hat-plus-13", "hat-plus-26", "hat-plus-2"} else "none",
        kernel=facts["kernel"]["release"],
        # A root of its own is an emulated host's: its board is a story, and these figures are the controller's.
        emulated=base != Path("/"),
    )


def _processor(cpuinfo: str) -> str:
    """``4 x Cortex-A76`` or the processor's own name; from ``/proc/cpuinfo``. Pure."""
    count = len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or os.cpu_count() or 1
    named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    part = re.search(r"^CPU part\s*:\s*(0x[0-9a-f]+)$", cpuinfo, re.MULTILINE)
    name = named[1].strip() if named else _ARM_PARTS.get(part[1], f"Arm part {part[1]}") if part else platform.machine()
    return f"{count} x {name}"


# Main ID Register, primary part number (Arm Cortex-A76 and -A72 Technical Reference Manuals).
_ARM_PARTS: Final = {"0xd0b": "Cortex-A76", "0xd08": "Cortex-A72"}


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ") or None
    except OSError:
        return None


@dataclass(frozen=True)
class Throttle:
    """``prefix`` stands before the command that is to be throttled; ``how`` says what it does."""

    prefix: tuple[str, ...]
    how: str


class NoThrottle(Exception):
    """This machine offers no way to throttle; its text says why."""


@contextmanager
def throttle(threads: int, *, cgroups: Path = Path("/sys/fs/cgroup"), run: Path = Path("/run")) -> Iterator[Throttle]:
    """A throttle for a process of so many threads, gone afterwards.

    Raises:
        NoThrottle: no systemd and no control group that this user may make.
    """
    share = f"{SHARE:.1%} of {threads} processors in every {_PERIOD_US // 1000} ms"
    if (run / "systemd/system").is_dir() and shutil.which("systemd-run"):
        scope = ["systemd-run", "--scope", "--quiet", "--collect", *([] if os.geteuid() == 0 else ["--user"])]
        limits = [f"--property=CPUQuota={100 * SHARE * threads:g}%", f"--property=CPUQuotaPeriodSec={_PERIOD_US}us"]
        yield Throttle((*scope, *limits, "--"), f"quota by systemd-run: {share}")
        return
    quota = round(SHARE * threads * _PERIOD_US)
    group, settings = _group(cgroups, quota)
    try:
        try:
            group.mkdir()
            for name, value in settings.items():
                (group / name).write_text(value, encoding="ascii")
        except OSError as error:
            raise NoThrottle(f"no systemd, and no control group can be made: {error}") from error
        # The shell joins the group before it becomes the program: not one instruction of that runs at full speed.
        join = f'echo $$ > "{group}/cgroup.procs" && exec "$@"'
        yield Throttle(("sh", "-c", join, "sh"), f"quota by a control group: {share}")
    finally:
        if group.is_dir():
            group.rmdir()


def _group(cgroups: Path, quota: int) -> tuple[Path, dict[str, str]]:
    """Where a group goes and what it holds: version 2 (``cpu.max``), or the processor hierarchy of version 1."""
    name = f"hedgerow-bench-{os.getpid()}"
    if (cgroups / "cgroup.controllers").is_file():
        return cgroups / name, {"cpu.max": f"{quota} {_PERIOD_US}"}
    return cgroups / "cpu" / name, {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(quota)}


def drop_cached(paths: Iterable[Path]) -> float:
    """Ask the kernel to forget these files' pages; return the share of them that it still holds (0 is cold)."""
    held = total = 0
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what is not written yet cannot be forgotten
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            pages = _resident(file.fileno(), os.fstat(file.fileno()).st_size)
        held += sum(pages)
        total += len(pages)
    return held / total if total else 0.0


def _resident(descriptor: int, size: int) -> list[int]:
    """1 for each page of a file that is in memory (mincore(2)); empty where that cannot be asked."""
    if not size:
        return []
    count = -(-size // mmap.PAGESIZE)
    libc: Any = ctypes.CDLL(None, use_errno=True)
    # Private and writable only so that ctypes gives its address; nothing is written, no page is touched.
    with mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        answer = (ctypes.c_ubyte * count)()
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), answer)
        del start
        return [] if failed else [each & 1 for each in answer]
