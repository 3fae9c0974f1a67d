"""The folder of kept answers: one JSON file each, redacted, readable for the server's user alone, deleted in time.

Invariants:

- Text is redacted before it is written; what was not redacted is never on a disk.
- A file is whole or not there.
- Files beyond the age or the size allowed are deleted at the start, with every write, and every hour.
"""

from __future__ import annotations

import logging
import os
import random
import stat
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hedgerow import atomic
from hedgerow.errors import MachineError
from hedgerow.server.telemetry import sampling
from hedgerow.server.telemetry.queues import Batches

if TYPE_CHECKING:
    from hedgerow.server.metrics import Metrics
    from hedgerow.server.redaction import Redactor
    from hedgerow.server.telemetry import config
    from hedgerow.server.telemetry.finished import Finished

log = logging.getLogger("hedgerow.server.samples")
_OWNER_ONLY: Final = 0o700
_FILE: Final = 0o600
_PATTERN: Final = "*.json"
_WAITING: Final = 16
_SWEEP_S: Final = 3600.0
_CLOSE_S: Final = 2.0
_DAY_S: Final = 86400.0


class Folder:
    """Keeps samples in ``settings.folder``.

    Raises:
        MachineError: it is no folder of ours alone, or cannot be made.
    """

    def __init__(self, settings: config.Samples, redactor: Redactor, *, wall: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._redactor = redactor
        self._wall = wall
        self._path = settings.folder
        _own(self._path)
        self.sweep()

    def write(self, request: Finished, name: str) -> Path:
        """Keep one answer of class ``name``."""
        at = datetime.fromtimestamp(self._wall(), UTC)
        path = self._path / f"{at:%Y%m%dT%H%M%S}Z-{request.caller.request_id}-{request.span_id}.json"
        value = {"time": at, "class": name, **_described(request, self._clean)}
        atomic.write_bytes(path, msgspec.json.format(msgspec.json.encode(value)), mode=_FILE)
        return path

    def sweep(self) -> None:
        """Delete what is too old, and the oldest while all are too large. Begun writes of a process that died too."""
        oldest_s = self._wall() - self._settings.max_days * _DAY_S
        found: list[tuple[float, int, Path]] = []
        for path in self._path.iterdir():
            with_ = path.lstat()
            if stat.S_ISREG(with_.st_mode):
                found.append((with_.st_mtime, with_.st_size, path))
        total = sum(size for _, size, _ in found)
        for modified, size, path in sorted(found):
            half_written = path.name.startswith(".")
            if not half_written and modified >= oldest_s and total <= self._settings.max_bytes:
                continue
            path.unlink(missing_ok=True)
            total -= size

    def _clean(self, text: str) -> str:
        most = self._settings.max_characters
        # Cut behind the redaction: a secret of which half is cut off has no shape any more.
        clean = self._redactor.redact(text)
        return clean if len(clean) <= most else f"{clean[:most]}…"


class Samples:
    """Draws among finished answers, and keeps what was drawn, on a thread."""

    def __init__(
        self,
        settings: config.Samples,
        folder: Folder,
        metrics: Metrics,
        *,
        slow: Callable[[Finished], bool],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._sampler = sampling.Sampler(settings.per_hour)
        self._folder = folder
        self._metrics = metrics
        self._slow = slow
        self._draw = draw
        self._queue: Batches[tuple[Finished, str]] = Batches(
            "samples", self._take, room=_WAITING, most=1, interval_s=0.0, idle_s=_SWEEP_S
        )

    def __call__(self, request: Finished) -> None:
        if request.text is None or request.finish is None:
            return
        name = sampling.class_of(request, slow=self._slow(request))
        if not self._sampler.keep(name, request.ended, self._draw()):
            return
        if not self._queue.offer((request, name), important=True):
            self._metrics.samples.labels(name, "queue_full").inc()

    def close(self) -> None:
        """Write what waits, and end."""
        self._queue.close(_CLOSE_S)

    def _take(self, batch: Sequence[tuple[Finished, str]]) -> None:
        try:
            for request, name in batch:
                outcome = "not_written"
                try:
                    self._folder.write(request, name)
                    outcome = "kept"
                finally:
                    self._metrics.samples.labels(name, outcome).inc()
            self._folder.sweep()
        except OSError as error:
            log.error("samples cannot be kept: %s", error.strerror)  # noqa: TRY400 - the message is complete
        except Exception as error:  # noqa: BLE001 - the thread must outlive any one sample
            log.error("samples cannot be kept: %s", type(error).__name__)  # noqa: TRY400 - it may quote the sample


def _own(path: Path) -> None:
    try:
        path.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise MachineError(f"samples cannot be kept here: {error.strerror}", where=str(path)) from error
    wrong = None
    if not stat.S_ISDIR(found.st_mode):
        wrong = "it is no folder"
    elif found.st_uid != os.geteuid():
        wrong = f"it belongs to user {found.st_uid}"
    elif stat.S_IMODE(found.st_mode) != _OWNER_ONLY:
        wrong = f"its mode is {stat.S_IMODE(found.st_mode):04o}"
    if wrong is not None:
        raise MachineError(
            f"samples are kept where nobody else can read them, and here {wrong}",
            where=str(path),
            next_step=f"chmod 0700 {path}, or another folder in telemetry.samples.folder",
        )


def _described(request: Finished, clean: Callable[[str], str]) -> dict[str, Any]:
    """What is kept of it. Not who asked."""
    asked = request.request
    messages = None if asked is None or asked.messages is None else asked.messages
    return {
        "request_id": request.caller.request_id,
        "model": request.model,
        "version": request.version,
        "adapter": None if asked is None else asked.adapter,
        "asked": {
            "messages": None
            if messages is None
            else [{"role": each.get("role", ""), "content": clean(each.get("content", ""))} for each in messages],
            "prompt": None if asked is None or asked.prompt is None else clean(asked.prompt),
            "max_tokens": None if asked is None else asked.max_tokens,
            "temperature": None if asked is None else asked.temperature,
            "top_p": None if asked is None else asked.top_p,
            "seed": None if asked is None else asked.seed,
        },
        "answer": clean(request.text or ""),
        "finish": request.finish,
        "prompt_tokens": request.prompt_tokens,
        "tokens": request.tokens,
        "duration_s": round(request.duration_s, 3),
        "first_token_s": None if request.first_token_s is None else round(request.first_token_s, 3),
    }
