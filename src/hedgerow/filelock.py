"""One process at a time: a lock that ends with its holder, however that ends, and says who has it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hedgerow.errors import DeviceError

_POLL_S = 0.1


@contextmanager
def exclusive(path: Path, *, wait_s: float, work: str) -> Iterator[None]:
    """Hold ``path`` locked; ``work`` names in errors what is being done under it.

    Raises:
        DeviceError: another process still has it after ``wait_s`` seconds.
    """
    with path.open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + wait_s
        while not _try(file.fileno()):
            if time.monotonic() > deadline:
                file.seek(0)
                holder = file.read().strip()
                raise DeviceError(
                    f"another process is {work} and has not finished within {wait_s:g} s",
                    where=f"{path}, process {holder or 'unknown'}",
                    next_step=f"see what it does: ps -fp {holder or 'PID'}; then run the command again",
                )
            time.sleep(_POLL_S)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def held(path: Path) -> bool:
    """Whether a process has ``path`` locked now."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
