"""Prometheus metrics of the server (names: docs/contracts.md). One registry an instance, so that tests do not share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

# From a small classifier's millisecond to a long answer's minute.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# From a large model on the processor to a small one on an accelerator.
_RATES = (0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0, 200.0)


class Metrics:
    """What is counted; ``queue_depth`` is read when scraped, and ``before_reading`` called before anything is."""

    def __init__(self, queue_depth: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.before_reading: Callable[[], None] = lambda: None
        # The first of all, so that the others are read behind it.
        self.registry.register(_Before(lambda: self.before_reading()))  # noqa: PLW0108 - it is set later
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
            ("model", "protocol", "prompt_size"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            f"{prefix}_time_to_first_token_seconds",
            "Time from the request to the first token.",
            ("model", "prompt_size"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.token_rate = Histogram(
            f"{prefix}_tokens_per_second",
            "Tokens a second of one answer, behind its first.",
            ("model", "prompt_size"),
            buckets=_RATES,
            registry=self.registry,
        )
        self.queue_duration = Histogram(
            f"{prefix}_queue_duration_seconds",
            "Time that a request waited for its turn.",
            ("model",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.errors = Counter(
            f"{prefix}_errors",
            "Requests without an answer, by cause.",
            ("model", "protocol", "cause"),
            registry=self.registry,
        )
        self.traces = Counter(
            f"{prefix}_traces", "Traces that were to leave, by what came of it.", ("outcome",), registry=self.registry
        )
        self.samples = Counter(
            f"{prefix}_samples",
            "Answers that were to be kept, by class and by what came of it.",
            ("class", "outcome"),
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
        self.model_memory = Gauge(
            f"{prefix}_model_memory_bytes",
            "What a loaded model was measured to take.",
            ("model",),
            registry=self.registry,
        )
        self.model_unloads = Counter(
            f"{prefix}_model_unloads",
            "Models that were unloaded: idle, to make room, or as somebody asked.",
            ("reason",),
            registry=self.registry,
        )
        self.model_process_ends = Counter(
            f"{prefix}_model_process_ends",
            "Ends of a model's own process that nobody asked for, by signal or exit status.",
            ("model", "how"),
            registry=self.registry,
        )
        self.degradation_level = Gauge(
            f"{prefix}_degradation_level",
            "0 as usual, 1 a smaller model, 2 shorter answers, 3 prepared answers or none.",
            registry=self.registry,
        )
        self.degraded_requests = Counter(
            f"{prefix}_degraded_requests", "Requests that got less, by step.", ("step",), registry=self.registry
        )
        self.fallback_requests = Counter(
            f"{prefix}_fallback_requests",
            "Requests that were to leave the device, by why and by what came of it.",
            ("model", "reason", "outcome"),
            registry=self.registry,
        )
        self.fallback_tokens = Counter(
            f"{prefix}_fallback_tokens",
            "Tokens that endpoints counted, by kind.",
            ("model", "kind"),
            registry=self.registry,
        )
        self.fallback_cost = Counter(
            f"{prefix}_fallback_cost", "What they cost, in the policy's currency.", ("model",), registry=self.registry
        )
        self.fallback_open = Gauge(
            f"{prefix}_fallback_breaker_open",
            "1 while an endpoint is left alone since it fails.",
            ("endpoint",),
            registry=self.registry,
        )
        depth = Gauge(f"{prefix}_queue_depth", "Requests waiting for their turn.", registry=self.registry)
        depth.set_function(queue_depth)
        self.info = Gauge(
            f"{prefix}_info",
            "1; the versions that this process was started with.",
            ("runtime", "configuration"),
            registry=self.registry,
        )
        self._restarts: Callable[[], int | None] = lambda: None
        # It is set later, once it is known.
        self.registry.register(_Restarts(f"{prefix}_restarts", lambda: self._restarts()))  # noqa: PLW0108 - see above
        # Of the process: memory, processor time, open files, start.
        ProcessCollector(registry=self.registry)

    def started(self, *, runtime: str, configuration: str | None, restarts: Callable[[], int | None]) -> None:
        """What runs, and how often it ended without having been told to; None where that is not known."""
        self.info.labels(runtime, configuration or "").set(1)
        self._restarts = restarts

    def exposition(self) -> bytes:
        """The text format, version 0.0.4."""
        return generate_latest(self.registry)


class _Before(Collector):
    """Nothing by itself; has done what the rest needs before it is read."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        self._work()
        return iter(())


class _Restarts(Collector):
    """Read when scraped, and absent where it is not known: 0 would say that all is well."""

    def __init__(self, name: str, count: Callable[[], int | None]) -> None:
        self._name = name
        self._count = count

    def collect(self) -> Iterator[CounterMetricFamily]:
        count = self._count()
        text = "Times that the server ended without having been told to."
        yield CounterMetricFamily(self._name, text, value=count)
