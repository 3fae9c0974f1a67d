"""One simulated device's gate: looks and answers that it would give, and the real judge's word on them. Pure.

The order of looks, questions and pauses is ``gate.session``'s, by the same ``pace``; only time and answers are drawn.
"""

from __future__ import annotations

import itertools
import math
import random
import zlib
from collections.abc import Iterator

import msgspec

from hedgerow.rollout.gate import pace
from hedgerow.rollout.gate.judge import judge
from hedgerow.rollout.gate.rules import Rules
from hedgerow.rollout.gate.samples import Answer, Expectation, Kind, Look, Window, summary
from hedgerow.rollout.gate.verdicts import CriterionResult, Judgement
from hedgerow.rollout.plan import Release
from hedgerow.rollout.policy import Policy
from hedgerow.rollout.policy.gate import Metric
from hedgerow.rollout.simulate.flaw import Flaw
from hedgerow.rollout.simulate.fleet import Device, Model

LOOK_S = 0.02
NOISE, NOISE_OF_ONE = 8192, 512
"""Draws of how answers vary, made once: a normal draw for every answer of a large fleet costs more than the judge."""
THROTTLED_BY = 2.5
"""How much slower a board is that its supply holds down to 600 MHz of 1500 or more."""
OLD = "simulated@0"
_WELL = {Metric.MEMORY_USED_RATIO: 0.55, Metric.TEMPERATURE_C: 58.0}


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """What a gate came to. ``seconds`` after the gate began."""

    judgement: Judgement
    seconds: float
    looks: int
    before: dict[str, float]
    after: dict[str, float]

    @property
    def criteria(self) -> list[CriterionResult]:
        """How each criterion came out."""
        return list(self.judgement.criteria)


class Gate:
    """The gate of one rollout; ``baseline`` and ``watch`` are asked once a device."""

    def __init__(self, release: Release, policy: Policy, flaw: Flaw, model: Model, seed: str, *, keep: bool) -> None:
        self._release = release
        self._policy = policy
        self._flaw = flaw
        draw = random.Random(f"{seed}/answers")  # noqa: S311 - a simulation is to give the same twice
        self._noise = tuple(math.exp(draw.gauss(0, model.answer_spread)) for _ in range(NOISE + NOISE_OF_ONE))
        self._rules = Rules.of(policy, release.slo)
        self._expected = Expectation(version=release.serves, sha256=release.serves_sha256)
        self._keep = keep
        # How long each question takes beside the others: golden inputs are not all of one length.
        self._length = [0.7 + 0.6 * (number % 7) / 6 for number in range(len(release.questions))]

    def baseline(self, device: Device) -> tuple[Window, float]:
        """What is measured with the version before, and how long that takes."""
        noise = self._noise_of(device, "before")
        probes, window, now = self._policy.gate.probes, Window(), LOOK_S
        window.see(self._look(device, 0.0, serving=OLD, hurt=False, throttled=False))
        for number in pace.order(len(self._length)):
            if window.asked >= probes.count or now >= probes.baseline_s:
                break
            took_ms = self._took_ms(device, number, noise, 1.0)
            now += took_ms / 1000
            window.hear(Answer(at=now, question=number, kind=Kind.RIGHT, latency_ms=took_ms))
            now += pace.pause_s(probes, took_ms / 1000, shortest_soak_s=None)
        window.see(self._look(device, now, serving=OLD, hurt=False, throttled=False))
        return window, now + LOOK_S

    def watch(self, device: Device, before: Window, *, since_switch_s: float, hurts_after_s: float | None) -> Watched:
        """Watch a device that was switched ``since_switch_s`` ago, until the judge's last word."""
        noise = self._noise_of(device, "after")
        soak, after, now, next_at = self._policy.soak, Window(), 0.0, 0.0
        order = pace.order(len(self._length), before.questions)
        while True:
            due = now + soak.interval_s
            hurt = hurts_after_s is not None and since_switch_s + now >= hurts_after_s
            after.see(self._look(device, now, serving=self._release.serves, hurt=hurt, throttled=device.throttling))
            now += LOOK_S
            judgement = judge(before, after, None, self._expected, self._rules, started=0.0, now=now)
            if judgement.final:
                break
            now, next_at = self._ask_until(due, device, after, noise, order, now=now, next_at=next_at, hurt=hurt)
        return Watched(
            judgement=judgement,
            seconds=now,
            looks=after.looked,
            before=summary(before) if self._keep else {},
            after=summary(after) if self._keep else {},
        )

    def _ask_until(
        self,
        due: float,
        device: Device,
        after: Window,
        noise: Iterator[float],
        order: Iterator[int],
        *,
        now: float,
        next_at: float,
        hurt: bool,
    ) -> tuple[float, float]:
        """Put questions until ``due``; what time it is then, and when the next question is due."""
        probes, shortest = self._policy.gate.probes, self._policy.soak.shortest_s
        factor = self._flaw.slower(passive=device.passive) * (THROTTLED_BY if device.throttling else 1.0)
        kind = Kind.WRONG if hurt and self._flaw.kind == "wrong" else Kind.RIGHT
        while now < due:
            if now < next_at:
                now = min(due, next_at)
                continue
            number = next(order)
            took_ms = self._took_ms(device, number, noise, factor)
            now += took_ms / 1000
            note = "another answer than the bundle's" if kind is Kind.WRONG else ""
            after.hear(Answer(at=now, question=number, kind=kind, latency_ms=took_ms, note=note))
            next_at = now + pace.pause_s(probes, took_ms / 1000, shortest_soak_s=shortest)
            if probes.count == 0:
                next_at = math.inf
        return now, next_at

    def _noise_of(self, device: Device, when: str) -> Iterator[float]:
        """The device's own place in the table, the same in every run of a seed."""
        place = zlib.crc32(f"{device.name}/{when}".encode()) % NOISE
        return itertools.cycle(self._noise[place : place + NOISE_OF_ONE])

    def _took_ms(self, device: Device, number: int, noise: Iterator[float], factor: float) -> float:
        return device.answer_ms * self._length[number] * factor * next(noise)

    def _look(self, device: Device, at: float, *, serving: str, hurt: bool, throttled: bool) -> Look:
        reasons: set[str] = set()
        status = "ok"
        if throttled:
            reasons, status = {"throttled"}, "degraded"
        if hurt and self._flaw.kind == "passive" and device.passive:
            reasons, status = reasons | {"hot"}, "degraded"
        if hurt and self._flaw.kind in {"fails", "leak"}:
            reasons, status = reasons | {"memory" if self._flaw.kind == "leak" else "model"}, "failing"
        return Look(
            at=at,
            reached=True,
            status=status,
            version=serving,
            sha256=self._release.serves_sha256,
            reasons=frozenset(reasons),
            metrics=_WELL,
            throttled=throttled,
        )
