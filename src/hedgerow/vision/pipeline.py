"""One camera: a thread that reads it, and one that detects, told about to whoever listens."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from hedgerow.vision.backoff import Backoff
from hedgerow.vision.capture import Capture
from hedgerow.vision.client import Refused, Unavailable
from hedgerow.vision.config import Camera, File
from hedgerow.vision.detector import Detector, Result
from hedgerow.vision.drift import ConfidenceDrift
from hedgerow.vision.forward import Forwarder
from hedgerow.vision.latest import Frame, LatestFrame
from hedgerow.vision.metrics import CameraMetrics, Metrics
from hedgerow.vision.sources import opener

log = logging.getLogger("hedgerow.vision")
# Between two questions to a server that is not there, or refuses.
_RETRY_S = (0.5, 10.0)


@dataclass(frozen=True)
class Seen:
    """A frame's result; ``age_s`` is from reading the frame to its detections."""

    camera: str
    frame: int
    age_s: float
    result: Result


class Pipeline:
    """``start`` it, ``join`` it; it ends when ``stop`` is set or its file does."""

    def __init__(
        self,
        camera: Camera,
        detector: Detector,
        *,
        drift: ConfidenceDrift,
        metrics: Metrics,
        stop: threading.Event,
        forwarder: Forwarder | None = None,
        tell: Callable[[Seen], None] = lambda _: None,
    ) -> None:
        self._name = camera.name
        self._detector = detector
        self._drift = drift
        self._stop = stop
        self._forwarder = forwarder
        self._tell = tell
        self._latest = LatestFrame()
        self._counts = CameraMetrics(metrics, camera.name, self._latest, drift)
        self._retry = Backoff(*_RETRY_S)
        self._trouble: str | None = None
        self._broken: str | None = None
        self._version: str | None = None
        file = camera.source if isinstance(camera.source, File) else None
        self._capture = Capture(
            camera.name,
            opener(camera.source),
            self._latest,
            self._counts,
            stop,
            backoff=None if file is not None else Backoff(*camera.reconnect_s),
            realtime=file is not None and file.pace == "realtime",
            every_frame=file is not None and file.pace == "every_frame",
        )
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._capture.run,), name=f"read-{camera.name}"),
            threading.Thread(target=self._guarded, args=(self._detect,), name=f"detect-{camera.name}"),
        ]

    @property
    def failure(self) -> str | None:
        """Why a file could not be read to its end, or what broke; None where neither is so."""
        return self._broken or self._capture.failure

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def wake(self) -> None:
        """``stop`` was set: let whoever waits for a frame see it."""
        self._latest.close(drop=True)

    def _guarded(self, work: Callable[[], None]) -> None:
        """A thread that breaks ends the process: one that went on without it would look well and see nothing."""
        try:
            work()
        except Exception as error:
            log.exception("camera %s broke", self._name)
            self._broken = f"{type(error).__name__} (the log has more)"
            self._stop.set()
            self.wake()

    def _detect(self) -> None:
        while (frame := self._latest.take()) is not None:
            try:
                result = self._detector.detect(frame.image)
            except (Unavailable, Refused) as error:
                self._failed(error)
            else:
                self._seen(frame, result)

    def _seen(self, frame: Frame, result: Result) -> None:
        if self._trouble is not None:
            log.info("camera %s: detecting again", self._name)
        self._trouble = None
        self._retry.reset()
        if self._version not in {None, result.version}:
            self._drift.reset()
        self._version = result.version
        age_s = time.monotonic() - frame.at
        self._counts.detected(result, age_s)
        self._watch(result)
        self._tell(Seen(self._name, frame.number, age_s, result))
        if self._forwarder is not None:
            self._forwarder.consider(
                self._name,
                frame,
                result,
                drifting=self._drift.alarm,
                now=time.monotonic(),
                counted=self._counts.forwarded,
            )

    def _watch(self, result: Result) -> None:
        before = self._drift.alarm
        self._drift.add(each.confidence for each in result.detections)
        if self._drift.alarm and not before:
            log.warning(
                "camera %s: mean confidence is %.2f, and was %.2f", self._name, self._drift.mean, self._drift.baseline
            )
        if before and not self._drift.alarm:
            log.info("camera %s: mean confidence is near its baseline again", self._name)

    def _failed(self, error: Unavailable | Refused) -> None:
        self._counts.failed()
        if str(error) != self._trouble:  # once, not for each frame
            self._trouble = str(error)
            log.error("camera %s: %s", self._name, error)
        wanted_s = getattr(error, "retry_after_s", None)
        self._stop.wait(self._retry.next_s() if wanted_s is None else wanted_s)
