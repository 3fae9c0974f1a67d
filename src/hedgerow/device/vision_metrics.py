"""What the process that reads cameras counts, told by the device exporter (docs/vision.md).

It serves plain metrics on loopback and has no certificate: whoever takes its decoder over gets no key with it. So the
exporter asks it at each scrape. What it answers is its own word, so it is bounded in time and size, and passed on is
what stands in ``FAMILIES`` alone: it can neither speak for the board nor spoil the scrape.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

PORT = 9102
# What `hedgerow.vision.metrics` has (a test holds them to each other): importing it here would cost NumPy's memory.
FAMILIES = {
    "hedgerow_vision_frames": "counter",
    "hedgerow_vision_detections": "counter",
    "hedgerow_vision_reconnects": "counter",
    "hedgerow_vision_forwarded_frames": "counter",
    "hedgerow_vision_camera_up": "gauge",
    "hedgerow_vision_frame_drop_ratio": "gauge",
    "hedgerow_vision_confidence_mean": "gauge",
    "hedgerow_vision_confidence_baseline": "gauge",
    "hedgerow_vision_confidence_drift": "gauge",
    "hedgerow_vision_frame_age_seconds": "histogram",
}
MOST_BYTES = 256 * 1024
"""Sixteen cameras with eighty classes each have less than half of that."""
WITHIN_S = 2.0


class VisionCollector(Collector):
    """The families that are told on loopback, and ``hedgerow_device_vision_up``: whether there were any."""

    def __init__(self, port: int = PORT, *, within_s: float = WITHIN_S) -> None:
        self._port = port
        self._within_s = within_s

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: registering must not ask."""
        return ()

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("hedgerow_device_vision_up", "1 if what reads the device's cameras tells its metrics.")
        try:
            found = {family.name: family for family in text_string_to_metric_families(self._ask())}
        except (OSError, http.client.HTTPException, ValueError):
            # It is being started, or gone: its unit's log says why. The device's own metrics do not wait for it.
            up.add_metric((), 0.0)
            yield up
            return
        up.add_metric((), 1.0)
        yield up
        yield from (found[name] for name, kind in FAMILIES.items() if name in found and found[name].type == kind)

    def _ask(self) -> str:
        """The text at ``/metrics``. Raises OSError, HTTPException or ValueError where there is none, or too much."""
        deadline = time.monotonic() + self._within_s
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._within_s)
        try:
            connection.request("GET", "/metrics", headers={"Accept": "text/plain"})
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise ValueError(f"status {response.status}")
            text = b""
            # Piece by piece: a time limit of a socket is one for each of them.
            while piece := response.read1(MOST_BYTES):
                text += piece
                if len(text) > MOST_BYTES:
                    raise ValueError(f"more than {MOST_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"more than {self._within_s} s")
        finally:
            connection.close()
        return text.decode()
