"""Read one camera on a thread and keep its newest frame; come back to a camera that was lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from hedgerow.errors import HedgerowError
from hedgerow.vision.backoff import Backoff
from hedgerow.vision.latest import Frame, LatestFrame
from hedgerow.vision.sources import Opened, SourceFailed

if TYPE_CHECKING:
    from av import VideoFrame

log = logging.getLogger("hedgerow.vision")


class Counts(Protocol):
    """What is told of a camera; ``hedgerow.vision.metrics.CameraMetrics``."""

    def connected(self, up: bool) -> None: ...  # noqa: FBT001 - it is what is told
    def reconnecting(self) -> None: ...
    def dropped(self) -> None: ...


class Capture:
    """Frames of ``open_source`` into ``latest`` until ``stop`` is set.

    ``backoff`` None: the source is a file, whose end is the end and whose failure is final (``failure``). ``realtime``
    plays by the file's own clock, ``every_frame`` waits for the model.
    """

    def __init__(
        self,
        name: str,
        open_source: Callable[[], Opened],
        latest: LatestFrame,
        counts: Counts,
        stop: threading.Event,
        *,
        backoff: Backoff | None,
        realtime: bool = False,
        every_frame: bool = False,
    ) -> None:
        self._name = name
        self._open = open_source
        self._latest = latest
        self._counts = counts
        self._stop = stop
        self._backoff = backoff
        self._realtime = realtime
        self._every_frame = every_frame
        self._number = 0
        self.failure: str | None = None

    def run(self) -> None:
        """Return when the source has ended or ``stop`` is set."""
        try:
            while not self._stop.is_set():
                ended = self._read()
                if self._backoff is None or self._stop.is_set():
                    self.failure = ended
                    return
                wait_s = self._backoff.next_s()
                log.warning("camera %s: %s; again in %g s", self._name, ended or "the stream ended", wait_s)
                self._stop.wait(wait_s)
                self._counts.reconnecting()
        finally:
            self._latest.close()

    def _read(self) -> str | None:
        """Read until the stream ends; why it failed, if it did."""
        try:
            with self._open() as frames:
                begun = _Clock(self._stop) if self._realtime else None
                for image in frames:
                    self._up()
                    if begun is not None:
                        begun.wait_for(image)
                    if self._stop.is_set():
                        return None
                    self._offer(image)
        except SourceFailed as error:
            return str(error)
        except HedgerowError as error:  # its password's file; someone may put that right
            return error.what
        finally:
            self._counts.connected(up=False)
        return None

    def _up(self) -> None:
        # Only a frame shows that a camera works: many accept a connection and then say nothing.
        self._counts.connected(up=True)
        if self._backoff is not None:
            self._backoff.reset()

    def _offer(self, image: VideoFrame) -> None:
        self._number += 1
        frame = Frame(image, time.monotonic(), self._number)
        if self._latest.put(frame, wait=self._every_frame):
            self._counts.dropped()


class _Clock:
    """Plays a file's frames at its own times."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._offset: float | None = None

    def wait_for(self, image: VideoFrame) -> None:
        if image.time is None:
            return
        now = time.monotonic()
        if self._offset is None:
            self._offset = now - image.time
        self._stop.wait(max(0.0, self._offset + image.time - now))
