"""Look at a host the way its users reach it: over mutual TLS, from here.

A ``Watcher`` is what a gate needs of a host; tests implement it in memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from hedgerow.errors import DeviceError, NetworkError
from hedgerow.fleet.chat_stream import ChatPiece
from hedgerow.fleet.endpoint import DeviceClient
from hedgerow.fleet.reported import Report
from hedgerow.registry import probe as questions
from hedgerow.registry.manifest import GoldenText
from hedgerow.registry.probe import Probe
from hedgerow.rollout.gate.samples import Answer, Kind, Look
from hedgerow.rollout.plan import Release
from hedgerow.rollout.policy.gate import Metric

ANSWER_WITHIN_S = 30.0
"""As ``gate.probes.timeout_s``, for who does not say."""


class Watcher(Protocol):
    """Looks at one host."""

    def look(self) -> Look:
        """One health report, or why there is none. Never raises for what a host or network does."""

    def probe(
        self, release: Release, number: int, *, timeout_s: float = ANSWER_WITHIN_S, weigh: bool = False
    ) -> Answer:
        """Put question ``number`` of ``release.questions``; never raises for what a host or network does.

        ``weigh``: measure the answer's perplexity, where the host can tell it.
        """


def _utc() -> datetime:
    return datetime.now(UTC)


class HttpsWatcher:
    """A ``Watcher`` over the device's server. ``now`` is the controller's clock, for the age of heartbeats."""

    def __init__(self, client: DeviceClient, now: Callable[[], datetime] = _utc) -> None:
        self._client = client
        self._now = now
        self._flags: frozenset[str] | None = None

    def look(self) -> Look:
        at = time.monotonic()
        try:
            report = self._client.report()
        except NetworkError as error:
            return Look(at=at, reached=False, note=error.what)
        except DeviceError as error:
            return Look(at=at, reached=True, note=error.what)
        return Look(
            at=at,
            reached=True,
            status=report.status,
            version=report.reference,
            sha256=None if report.model is None else report.model.sha256,
            runtime=report.runtime,
            configuration=report.configuration,
            applications=report.applications,
            reasons=frozenset(reason.code for reason in report.troubles),
            metrics=metrics(report, self._now()),
            requests=report.serving.requests,
            errors=report.serving.errors,
            window_s=report.serving.window_s,
            restarts=report.serving.restarts,
            cpu_s=None if report.processor is None else report.processor.total_s,
            cpu_others_s=None if report.processor is None else report.processor.others_s,
            throttled=self._throttled(report),
        )

    def probe(
        self, release: Release, number: int, *, timeout_s: float = ANSWER_WITHIN_S, weigh: bool = False
    ) -> Answer:
        at = time.monotonic()
        try:
            return self._answer(release, number, at, timeout_s, weigh=weigh)
        except NetworkError as error:
            return Answer(at=at, question=number, kind=Kind.LOST, note=error.what)
        except DeviceError as error:
            return Answer(at=at, question=number, kind=Kind.ERROR, note=f"{error.what}: {error.where}")

    def _answer(self, release: Release, number: int, at: float, timeout_s: float, *, weigh: bool) -> Answer:
        golden = release.questions[number]
        question = questions.ask(golden, release.name, release.tensor_types)
        pieces: list[ChatPiece] = []
        if isinstance(golden, GoldenText):
            pieces += self._client.stream_chat(
                question.body["model"],
                question.body["messages"],
                max_tokens=golden.max_tokens,
                timeout_s=timeout_s,
                logprobs=weigh,
            )
            text = "".join(piece.text for piece in pieces)
            document = {"choices": [{"message": {"content": text}}]}
        else:
            document = self._client.post(question.path, question.body, timeout_s=timeout_s)
        latency_ms = (time.monotonic() - at) * 1000
        return answered(golden, number, document, at=at, latency_ms=latency_ms, pieces=pieces)

    def _throttled(self, report: Report) -> bool:
        """Whether the board is slowed down or short of voltage, or was since the look before."""
        board = report.board
        flags = None if board.throttled_since_boot is None else frozenset(board.throttled_since_boot)
        since = flags is not None and self._flags is not None and not flags <= self._flags
        self._flags = flags if flags is not None else self._flags
        return bool(board.throttled_now) or bool(board.undervoltage_now) or since


def answered(
    golden: Probe, number: int, document: object, *, at: float, latency_ms: float, pieces: list[ChatPiece]
) -> Answer:
    """What an answer is worth. ``pieces`` are those of a stream, for the first token and the speed after it."""
    wrong = questions.wrong(golden, document)
    times = [piece.at_s for piece in pieces if piece.text]
    tokens = next((piece.tokens for piece in reversed(pieces) if piece.tokens is not None), None)
    speed = None
    if tokens is not None and tokens > 1 and len(times) > 1 and times[-1] > times[0]:
        # The wait for the first token is the prompt's; speed is what follows it, as the server's report has it.
        speed = (tokens - 1) / (times[-1] - times[0])
    return Answer(
        at=at,
        question=number,
        kind=Kind.RIGHT if wrong is None else Kind.WRONG,
        latency_ms=latency_ms,
        ttft_ms=times[0] * 1000 if times else None,
        tokens_per_s=speed,
        perplexity=_perplexity([logprob for piece in pieces for logprob in piece.logprobs]),
        note=wrong or "",
    )


def _perplexity(logprobs: Sequence[float]) -> float | None:
    return math.exp(-sum(logprobs) / len(logprobs)) if logprobs else None


def metrics(report: Report, now: datetime) -> dict[Metric, float]:
    """What a report measures, in the policy's words; what it does not give is left out."""
    serving, board = report.serving, report.board
    known: dict[Metric, float | None] = {
        Metric.REPORTED_P50_MS: serving.p50_ms,
        Metric.REPORTED_P95_MS: serving.p95_ms,
        Metric.REPORTED_P99_MS: serving.p99_ms,
        Metric.REPORTED_TTFT_P95_MS: serving.ttft_p95_ms,
        Metric.REPORTED_TOKENS_PER_S: serving.tokens_per_s,
        Metric.QUEUE: serving.queue,
        Metric.TEMPERATURE_C: board.temperature_c,
        Metric.THROTTLED: None if board.throttled_now is None else float(bool(board.throttled_now)),
        Metric.UNDERVOLTAGE: None if board.undervoltage_now is None else float(board.undervoltage_now),
        Metric.MEMORY_USED_RATIO: _memory_used(board.memory_available_mb, board.memory_total_mb),
        Metric.HEARTBEAT_AGE_S: _heartbeat_age_s(report, now),
    }
    return {metric: float(value) for metric, value in known.items() if value is not None}


def _memory_used(available_mb: float | None, total_mb: float | None) -> float | None:
    return None if available_mb is None or not total_mb else 1 - available_mb / total_mb


def _heartbeat_age_s(report: Report, now: datetime) -> float | None:
    """Seconds since the agent's last sign of life, both on the device's clock; without an agent the report's own age.

    That one is only known where the device's clock is synchronised.
    """
    if report.time is None:
        return None
    if report.agent is not None and report.agent.heartbeat is not None:
        return max(0.0, (report.time - report.agent.heartbeat).total_seconds())
    return max(0.0, (now - report.time).total_seconds()) if report.clock_synced else None
