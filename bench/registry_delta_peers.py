"""Programs that make deltas of files, each on one pair: what they would transfer, and their CPU."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bsdiff4  # type: ignore[import-untyped]

Run = Callable[[Path, Path, Path], "Delta"]


@dataclass(frozen=True)
class Delta:
    """Bytes to transfer, CPU seconds to make and to apply."""

    size: int
    diff_s: float
    patch_s: float


def zstd_full(_: Path, new: Path, folder: Path) -> Delta:
    packed, out = folder / "full.zst", folder / "out"
    diff = _cpu(["zstd", "-q", "-f", "-3", "-T1", str(new), "-o", str(packed)])
    return Delta(packed.stat().st_size, diff, _cpu(["zstd", "-q", "-f", "-d", str(packed), "-o", str(out)]))


def zstd_patch_from(old: Path, new: Path, folder: Path) -> Delta:
    packed, out = folder / "patch.zst", folder / "out"
    base = ["zstd", "-q", "-f", "--long=31", f"--patch-from={old}"]
    diff = _cpu([*base, "-3", "-T1", str(new), "-o", str(packed)])
    return Delta(packed.stat().st_size, diff, _cpu([*base, "-d", "--memory=2048MB", str(packed), "-o", str(out)]))


def xdelta(old: Path, new: Path, folder: Path) -> Delta:
    packed, out = folder / "patch.vcdiff", folder / "out"
    window = ["-f", "-B", str(max(old.stat().st_size, 1 << 20)), "-s", str(old)]
    diff = _cpu(["xdelta3", "-e", "-3", *window, str(new), str(packed)])
    return Delta(packed.stat().st_size, diff, _cpu(["xdelta3", "-d", *window, str(packed), str(out)]))


def casync(old: Path, new: Path, folder: Path) -> Delta:
    """Chunks that the old version has not, and the new one's index."""
    store, again = folder / "chunks.castr", folder / "again"
    _cpu(["casync", "make", f"--store={store}", str(folder / "old.caibx"), str(old)])
    before = _size(store)
    index = folder / "new.caibx"
    diff = _cpu(["casync", "make", f"--store={store}", str(index), str(new)])
    size = _size(store) - before + index.stat().st_size
    patch = _cpu(["casync", "extract", f"--store={store}", f"--seed={old}", str(index), str(again)])
    return Delta(size, diff, patch)


def bsdiff(old: Path, new: Path, _: Path) -> Delta:
    before, after = old.read_bytes(), new.read_bytes()
    start = time.process_time()
    patch = bsdiff4.diff(before, after)
    middle = time.process_time()
    bsdiff4.patch(before, patch)
    return Delta(len(patch), middle - start, time.process_time() - middle)


PEERS: dict[str, Run] = {
    "zstd -3": zstd_full,
    "zstd --patch-from": zstd_patch_from,
    "xdelta3": xdelta,
    "casync": casync,
    "bsdiff4": bsdiff,
}


def available(name: str) -> bool:
    return name == "bsdiff4" or shutil.which(name.split(maxsplit=1)[0]) is not None


def _cpu(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
