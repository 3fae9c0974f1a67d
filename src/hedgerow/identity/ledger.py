"""Ledgers of the CA: one JSON line an event, on disk when the call returns, never changed.

A torn last line (power cut) is completed with a line end before the next one is written, and read past: what it
announced was never done.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec


def append(path: Path, entry: msgspec.Struct) -> None:
    """Add ``entry`` durably; safe among parallel Ansible workers."""
    line = json.dumps(msgspec.to_builtins(entry), sort_keys=True).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
            line = b"\n" + line
        file.write(line)
        os.fsync(file.fileno())


def read(path: Path, kind: Any) -> Iterator[Any]:
    """Yield the entries of type ``kind`` from the beginning; nothing if there is no ledger."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    decoder = msgspec.json.Decoder(kind)
    for line in text.splitlines():
        try:
            yield decoder.decode(line)
        except msgspec.MsgspecError:
            continue
