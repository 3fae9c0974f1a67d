"""Prometheus metrics of cameras (names: docs/contracts.md). Labels: cameras and classes of the configuration."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from hedgerow.vision.detector import Result
from hedgerow.vision.drift import ConfidenceDrift
from hedgerow.vision.latest import LatestFrame

# From a small network on an accelerator to a large one on one core.
_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
_PREFIX = "hedgerow_vision"
NOT_A_NUMBER = float("nan")


class Metrics:
    """What is counted, of all cameras."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.frames = self._counter("frames", "Frames by what became of them.", "camera", "result")
        self.detections = self._counter("detections", "Detections.", "camera", "class")
        self.reconnects = self._counter("reconnects", "Tries to come back to a camera.", "camera")
        self.forwarded = self._counter("forwarded_frames", "Exceptional frames by outcome.", "camera", "result")
        self.up = self._gauge("camera_up", "1 while frames come.")
        self.drop_ratio = self._gauge("frame_drop_ratio", "Share of the last 300 frames that the model did not see.")
        self.confidence = self._gauge("confidence_mean", "Mean confidence of the last detections; NaN before any.")
        self.baseline = self._gauge("confidence_baseline", "What the mean is held to; NaN while it is being learnt.")
        self.drift = self._gauge("confidence_drift", "1 while the mean is away from its baseline.")
        self.age = Histogram(
            f"{_PREFIX}_frame_age_seconds",
            "Time from reading a frame to its detections.",
            ("camera",),
            buckets=_SECONDS,
            registry=self.registry,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"{_PREFIX}_{name}", text, ("camera",), registry=self.registry)


class CameraMetrics:
    """One camera's part of them; every series is there from the start, so that a rate has a first value."""

    def __init__(self, metrics: Metrics, camera: str, latest: LatestFrame, drift: ConfidenceDrift) -> None:
        self._metrics = metrics
        self._camera = camera
        for result in ("detected", "dropped", "failed"):
            metrics.frames.labels(camera, result)
        metrics.reconnects.labels(camera)
        metrics.up.labels(camera).set(0)
        metrics.drop_ratio.labels(camera).set_function(lambda: latest.drop_ratio)
        metrics.confidence.labels(camera).set_function(lambda: _number(drift.mean))
        metrics.baseline.labels(camera).set_function(lambda: _number(drift.baseline))
        metrics.drift.labels(camera).set_function(lambda: float(drift.alarm))

    def connected(self, up: bool) -> None:  # noqa: FBT001 - it is what is told
        self._metrics.up.labels(self._camera).set(up)

    def reconnecting(self) -> None:
        self._metrics.reconnects.labels(self._camera).inc()

    def dropped(self) -> None:
        self._metrics.frames.labels(self._camera, "dropped").inc()

    def failed(self) -> None:
        self._metrics.frames.labels(self._camera, "failed").inc()

    def detected(self, result: Result, age_s: float) -> None:
        self._metrics.frames.labels(self._camera, "detected").inc()
        self._metrics.age.labels(self._camera).observe(age_s)
        for each in result.detections:
            self._metrics.detections.labels(self._camera, each.label).inc()

    def forwarded(self, outcome: str) -> None:
        """``sent``, ``limited``, ``busy`` or ``failed``."""
        self._metrics.forwarded.labels(self._camera, outcome).inc()


def _number(value: float | None) -> float:
    return NOT_A_NUMBER if value is None else value
