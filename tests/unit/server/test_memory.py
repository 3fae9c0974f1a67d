"""What is swapped out comes back: the allocator's heaps, and Python's own objects."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
import server_support as support

from hedgerow.server.dataplane import DataPlane
from hedgerow.server.inference import InferRequest
from hedgerow.server.models import Served

VERSIONS = {"1.0.0": 1.0, "2.0.0": 2.0}

# Threads take and free blocks of a request's size and of a model's, all at once; then the allocator says what it holds.
PROGRAM = """
import ctypes, sys, threading
from hedgerow.server import memory
if sys.argv[1] == "settled":
    memory.settle()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(8)
def work():
    together.wait()
    for size in (600_000, 5_000_000) * 4:
        block = ctypes.c_void_p(libc.malloc(size))
        together.wait()
        libc.free(block)
    libc.malloc(5_000_000)
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"a"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


def heaps(how: str, **environment: str) -> tuple[int, int]:
    """How many heaps there are, and how many blocks are mapped apart."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    bare.pop("GLIBC_TUNABLES", None)
    shown = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], env=bare | environment, capture_output=True, text=True, check=True
    ).stdout
    mapped = re.search(r'<total type="mmap" count="(\d+)"', shown)
    assert mapped is not None
    return shown.count("<heap nr="), int(mapped[1])


@pytest.mark.skipif(
    not hasattr(os, "confstr") or "glibc" not in str(os.confstr("CS_GNU_LIBC_VERSION")),
    reason="another C library has no such settings",
)
def test_one_heap_for_all_threads_and_large_blocks_apart() -> None:
    """Without it each thread has a heap, and blocks of a model's size lie in it once the first was freed."""
    many, within = heaps("as it is")
    assert many > 4
    one, apart = heaps("settled")
    assert one == 1
    assert apart >= within + 8
    assert heaps("settled", MALLOC_ARENA_MAX="3")[0] == 3  # an operator who says otherwise is obeyed


def test_swaps_leave_nothing_behind(tmp_path) -> None:
    """Of a dozen versions that came and went one is there, with its one row in the metrics, and no thread."""
    for version, addend in VERSIONS.items():
        support.write_bundle(tmp_path / "add" / version, "add", version, addend)

    async def main() -> None:
        plane = DataPlane(tmp_path, model="add")
        for version in [*VERSIONS] * 6:
            await plane.prepare("add", version)
            _, before = await plane.switch("add", version)
            await plane.infer(InferRequest("add", {"x": np.ones((1, 2), np.float32)}), protocol="oip")
            if before is not None:
                assert await asyncio.to_thread(before.wait_closed, support.PATIENCE_S)
        del before
        gc.collect()
        loaded = [each.version for each in gc.get_objects() if isinstance(each, Served) and each.name == "add"]
        rows = [sample.labels["version"] for metric in plane.metrics.model_info.collect() for sample in metric.samples]
        assert loaded == rows == ["2.0.0"]
        await plane.close()

    asyncio.run(main())
    assert [each.name for each in threading.enumerate() if each.name.startswith(("close-", "infer"))] == []
