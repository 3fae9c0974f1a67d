"""One line for each request that left the site: JSON, appended and on the disk before the next. Never the text.

A file that has grown to ``MOST_BYTES`` is set aside as ``audit.1.jsonl``, the one before as ``audit.2.jsonl``, and so
on. ``KEPT`` files stay: some 150,000 lines.
"""

from __future__ import annotations

import os
import threading
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

FILE = "audit.jsonl"
MOST_BYTES = 16 * 1024 * 1024
KEPT = 4


class Departure(Struct, frozen=True, kw_only=True):
    """What is known when a request leaves. ``time`` is UTC; ``prompt_hmac_sha256`` is keyed with the device's key.

    ``redactions``: how often something was replaced, by kind. ``bytes`` is the length of what left.
    """

    time: datetime
    model: str
    endpoint: str
    endpoint_model: str
    reason: str
    prompt_hmac_sha256: str
    redactions: dict[str, int]
    bytes: int


class Line(Departure, frozen=True, kw_only=True):
    """``outcome``: answered, cancelled, failed, broken (within the answer), deadline, interrupted (the server ended).

    ``cost`` is in the policy's currency. ``exact`` is false where the endpoint did not say what it counted: then the
    cost is the most that it can be, and ``completion_tokens`` what had come.
    """

    outcome: str
    prompt_tokens: int
    completion_tokens: int
    cost: float
    exact: bool


class Audit:
    """The file in ``folder``. Blocks; any thread may use it."""

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        self._path = folder / FILE
        self._most_bytes = most_bytes
        self._lock = threading.Lock()

    def write(self, line: Line) -> None:
        """Append ``line``.

        Raises:
            OSError: it is not on the disk.
        """
        data = msgspec.json.encode(line) + b"\n"
        with self._lock:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, data)
                os.fsync(descriptor)
                size = os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
            if size >= self._most_bytes:
                self._set_aside()

    def _set_aside(self) -> None:
        names = [self._path, *(self._folder / f"audit.{number}.jsonl" for number in range(1, KEPT))]
        for older, newer in zip(reversed(names), [*reversed(names[:-1])], strict=False):
            if newer.exists():
                newer.replace(older)
