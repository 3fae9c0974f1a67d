"""A bounded local log of what changed on this device; it survives reboots and needs nobody else.

- Two files of ``MAX_BYTES`` at the most; when the younger is full, it takes the older's place by one rename.
- A line is whole or it is passed over: a power cut may tear the last one, and takes no other with it.
- On a full disk the older file gives way, so that why a device went back is still told. Where even that does not help,
  ``append`` raises, and whoever logs goes on: a line is never worth a step of an activation.
- Commands and the agent write: the folder is locked for the moment of a line, and no lock is ever waited for in vain,
  because it ends with its holder.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

FILE_NAME = "events.jsonl"
OLDER = "events.1.jsonl"
# Two files of this size at the most: some thousand events, a second of an SD card's patience.
MAX_BYTES = 256 * 1024
# A reason may quote a model's answer; one line must not push all others out.
MAX_REASON = 1000
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: what happened to which version, and why. ``at`` is UTC."""

    at: datetime
    event: str
    model: str
    reason: str | None = None


def append(folder: Path, event: Event) -> None:
    """Add a line, flushed to disk.

    Raises:
        OSError: the disk does not take it.
    """
    if event.reason is not None and len(event.reason) > MAX_REASON:
        event = msgspec.structs.replace(event, reason=event.reason[: MAX_REASON - 1] + "…")
    line = msgspec.json.encode(event) + b"\n"
    with _locked(folder):
        try:
            _append(folder, line)
        except OSError as error:
            if error.errno not in _FULL or not (folder / OLDER).exists():
                raise
            (folder / OLDER).unlink()
            _append(folder, line)


def read(folder: Path, *, since: datetime | None = None) -> list[dict[str, Any]]:
    """Every line that is whole, oldest first; with ``since`` those at or after it."""
    with _locked(folder):
        data = [path.read_bytes() for name in (OLDER, FILE_NAME) if (path := folder / name).exists()]
    found: list[dict[str, Any]] = []
    for line in (line for part in data for line in part.splitlines()):
        try:
            event = msgspec.json.decode(line, type=Event)
            if since is None or event.at >= since:
                found.append(msgspec.json.decode(line))
        except (msgspec.DecodeError, TypeError):  # torn by a power cut, or a time without its zone
            continue
    return found


def _append(folder: Path, line: bytes) -> None:
    path = folder / FILE_NAME
    if path.exists() and path.stat().st_size + len(line) > MAX_BYTES:
        path.replace(folder / OLDER)
    with path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        # What a power cut or a full disk tore must not take this line with it.
        torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + line
        written = file.write(data)
        if written != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file.fileno())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the log; a folder that is not there has none."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
