"""What was seen of a host: looks at its report, answers to the gate's questions, and windows of both. Pure.

Times are seconds on the controller's steady clock, latencies milliseconds as the controller saw them, network and TLS
included: what users wait for.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from hedgerow.fleet.reported import ReportedApplication
from hedgerow.rollout.gate.statistics import percentile
from hedgerow.rollout.policy.gate import Metric

LOOKS_KEPT = 600
"""Looks that a window keeps; older ones have been judged."""
STEPS = frozenset({"smaller_model", "answers_shortened", "answers_canned", "load_shed"})
"""Reason codes of a server that gives less because its board is under pressure (``hedgerow.server.degradation``)."""
STOOD_IN = STEPS - {"answers_shortened"}
"""Of these, where another than the model in service answers, or nobody; golden questions are never shortened."""


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """What a look is held against."""

    version: str
    sha256: str
    builds: frozenset[str] = frozenset()
    """Hashes that are as good: of the manifests of the version's variants."""
    baseline: frozenset[str] = frozenset()
    """Reason codes that stood before the release touched the host."""
    started_with: str | None = None
    """``runtime:VERSION`` or ``configuration:VERSION`` that its server must run with, or ``application:NAME@VERSION``
    that must run beside it; None: whatever it does."""


class Look(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One look at a host. ``at`` is in seconds on any steady clock."""

    at: float
    reached: bool
    status: str | None = None
    """``ok``, ``degraded`` or ``failing``; None when the host gave no report."""
    version: str | None = None
    """``name@version`` that it says it serves."""
    sha256: str | None = None
    """Hash of that bundle's manifest."""
    runtime: str | None = None
    configuration: str | None = None
    """Versions that its server was started with."""
    applications: tuple[ReportedApplication, ...] | None = None
    """What runs beside it; None: nothing, or it does not say."""
    reasons: frozenset[str] = frozenset()
    """Codes of what keeps it from being ``ok``; remarks that do not are left out."""
    note: str = ""
    """What was in the way, for people."""
    metrics: dict[Metric, float] = {}
    """What the report measures; a metric that it does not give is not here."""
    requests: int | None = None
    """Of the server's window of ``window_s`` seconds, the gate's own questions included."""
    errors: int | None = None
    window_s: float | None = None
    restarts: int | None = None
    cpu_s: float | None = None
    """Seconds of all cores since the board's start, and of these what ran for others than the server."""
    cpu_others_s: float | None = None
    throttled: bool = False
    """Slowed down or short of voltage now, or once since the look before."""
    queries: dict[str, float] = {}
    """Answers of Prometheus by the query's name."""
    unanswered: dict[str, str] = {}
    """Why a query has no value; the fault is the query's."""
    outage: str = ""
    """Why Prometheus gave no answer at all; "" where it did, or was not asked."""


class Kind(StrEnum):
    """How an answer was."""

    RIGHT = "right"
    WRONG = "wrong"
    ERROR = "error"
    """The server refused, failed, or began no answer in time."""
    LOST = "lost"
    """The host could not be reached."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One question of the bundle's and its answer. ``question`` is its place among the release's probes."""

    at: float
    question: int
    kind: Kind
    latency_ms: float | None = None
    ttft_ms: float | None = None
    """Until the first token, where the answer came as a stream of them."""
    tokens_per_s: float | None = None
    perplexity: float | None = None
    """Of the answer by the model itself, where it was measured."""
    note: str = ""


class Window(msgspec.Struct, kw_only=True):
    """What was seen of one host (or several alike) in one stretch of time; columns, so that a test need not copy.

    ``at``, ``questions``, ``latency_ms`` have one entry an answered question, right or wrong; ``ttft_ms``,
    ``tokens_per_s`` and ``perplexity`` one where it was measured. ``row``, ``judged`` and ``tested`` are the judge's
    notes of what it has seen before: passing looks in a row, looks judged, each interim test's stage (see ``judge``).
    """

    looks: list[Look] = []
    looked: int = 0
    at: list[float] = []
    questions: list[int] = []
    latency_ms: list[float] = []
    ttft_ms: list[float] = []
    tokens_per_s: list[float] = []
    perplexity: list[float] = []
    asked: int = 0
    """Questions that reached the server."""
    errors: int = 0
    wrong: list[str] = []
    """What was wrong with each wrong answer."""
    last_error: str = ""
    first_restarts: int | None = None
    last_restarts: int | None = None
    new_restarts: int = 0
    """Restarts that the looks of this window have seen come."""
    start_s: float | None = None
    """Seconds in which the server loaded the model, if it is known."""
    row: int = 0
    judged: int = 0
    tested: dict[str, int] = {}

    @property
    def latest(self) -> Look | None:
        """The last look."""
        return self.looks[-1] if self.looks else None

    def see(self, look: Look) -> None:
        """Add a look."""
        self.looked += 1
        self.looks.append(look)
        if look.restarts is not None:
            known = look.restarts if self.last_restarts is None else self.last_restarts
            # The count begins anew with a boot, or a stop that somebody asked for.
            self.new_restarts += look.restarts - known if look.restarts >= known else look.restarts
            self.first_restarts = look.restarts if self.first_restarts is None else self.first_restarts
            self.last_restarts = look.restarts
        if len(self.looks) > 2 * LOOKS_KEPT:
            del self.looks[:-LOOKS_KEPT]

    def hear(self, answer: Answer) -> None:
        """Add an answer. One that was lost on the way is none."""
        if answer.kind is Kind.LOST:
            return
        self.asked += 1
        if answer.kind is Kind.ERROR:
            self.errors += 1
            self.last_error = answer.note
            return
        if answer.kind is Kind.WRONG:
            self.wrong.append(answer.note)
        if answer.latency_ms is not None:
            self.at.append(answer.at)
            self.questions.append(answer.question)
            self.latency_ms.append(answer.latency_ms)
        if answer.ttft_ms is not None:
            self.ttft_ms.append(answer.ttft_ms)
        if answer.tokens_per_s is not None:
            self.tokens_per_s.append(answer.tokens_per_s)
        if answer.perplexity is not None:
            self.perplexity.append(answer.perplexity)

    def column(self, metric: Metric) -> Sequence[float]:
        """The samples behind a metric of ``policy.gate.SAMPLED``."""
        match metric:
            case Metric.TTFT_MS:
                return self.ttft_ms
            case Metric.TOKENS_PER_S:
                return self.tokens_per_s
            case Metric.PERPLEXITY:
                return self.perplexity
        return self.latency_ms


PERCENTILES = {Metric.P50_MS: 0.50, Metric.P95_MS: 0.95, Metric.P99_MS: 0.99, Metric.TTFT_MS: 0.95}
"""``ttft_ms`` is the 95th percentile, as in the bundle's ``slo``; tokens a second and perplexity are medians."""


def value_of(metric: Metric, samples: Sequence[float]) -> float | None:
    """The figure that stands for ``samples`` of a sampled metric; None of nothing."""
    return percentile(samples, PERCENTILES.get(metric, 0.50))


def summary(window: Window) -> dict[str, float]:
    """Figures of a window by metric, for the journal: medians and percentiles, the last look's gauges, counts."""
    found: dict[str, float] = {}
    for metric in (Metric.P50_MS, Metric.P95_MS, Metric.P99_MS, Metric.TTFT_MS, Metric.TOKENS_PER_S, Metric.PERPLEXITY):
        value = value_of(metric, window.column(metric))
        if value is not None:
            found[str(metric)] = round(value, 3)
    if window.asked:
        found |= {"probes": window.asked, "probe_errors": window.errors, "golden_failures": len(window.wrong)}
    if window.start_s is not None:
        found[str(Metric.START_S)] = round(window.start_s, 3)
    look = next((look for look in reversed(window.looks) if look.status is not None), None)
    if look is not None:
        found |= {str(metric): round(value, 4) for metric, value in look.metrics.items()}
        found |= {f"query_{name}": value for name, value in look.queries.items()}
        if window.last_restarts is not None:
            found[str(Metric.RESTARTS)] = window.last_restarts
        if look.requests is not None:
            found |= {"reported_requests": look.requests, "reported_errors": look.errors or 0}
    return found
