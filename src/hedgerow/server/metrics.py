"""Prometheus metrics of the server (names: docs/contracts.md). One registry an instance, so that tests do not share."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# From a small classifier's millisecond to a long answer's minute.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """What is counted; ``queue_depth`` is read when scraped."""

    def __init__(self, queue_depth: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        prefix = "hedgerow_server"
        self.requests = Counter(
            f"{prefix}_requests",
            "Requests by outcome.",
            ("model", "version", "protocol", "code"),
            registry=self.registry,
        )
        self.duration = Histogram(
            f"{prefix}_request_duration_seconds",
            "Time from the request to the end of its answer.",
            ("model", "protocol"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            f"{prefix}_time_to_first_token_seconds",
            "Time from the request to the first token.",
            ("model",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.tokens = Counter(f"{prefix}_tokens", "Tokens by kind.", ("model", "kind"), registry=self.registry)
        self.inflight = Gauge(f"{prefix}_inflight", "Requests being worked on.", registry=self.registry)
        self.batch_size = Histogram(
            f"{prefix}_batch_size",
            "Rows that were computed together.",
            ("model",),
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.model_info = Gauge(
            f"{prefix}_model_info",
            "1 for the version in service.",
            ("model", "version", "sha256"),
            registry=self.registry,
        )
        depth = Gauge(f"{prefix}_queue_depth", "Requests waiting for their turn.", registry=self.registry)
        depth.set_function(queue_depth)

    def exposition(self) -> bytes:
        """The text format, version 0.0.4."""
        return generate_latest(self.registry)
