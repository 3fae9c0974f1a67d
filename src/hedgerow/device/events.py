"""A bounded local log of what changed on this device; it survives reboots and needs nobody else."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

FILE_NAME = "events.jsonl"
# Two files of this size at the most: some thousand events, a second of an SD card's patience.
MAX_BYTES = 256 * 1024


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: what happened to which version, and why."""

    at: datetime
    event: str
    model: str
    reason: str | None = None


def append(folder: Path, event: Event) -> None:
    """Add a line, flushed to disk; the older half goes when the file is full."""
    path = folder / FILE_NAME
    if path.exists() and path.stat().st_size > MAX_BYTES:
        path.replace(path.with_suffix(".1.jsonl"))
    with path.open("a+b") as file:
        # A power cut may have torn the last line; it must not take the next one with it.
        torn = file.tell() > 0 and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"
        file.write((b"\n" if torn else b"") + msgspec.json.encode(event) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> list[dict[str, Any]]:
    """Every line that is whole, oldest first."""
    lines: list[bytes] = []
    for name in (f"{Path(FILE_NAME).stem}.1.jsonl", FILE_NAME):
        path = folder / name
        if path.exists():
            lines += path.read_bytes().splitlines()
    found: list[dict[str, Any]] = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line))
        except msgspec.DecodeError:  # torn by a power cut
            continue
    return found
