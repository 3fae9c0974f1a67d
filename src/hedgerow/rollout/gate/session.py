"""One host's gate from the first look to the verdict: looks, questions, untouched hosts, Prometheus.

``judge`` decides. Everything that goes to a network runs as an errand: whoever asks to stop is heard within a second,
whatever a host does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from hedgerow.rollout.gate import errand, pace
from hedgerow.rollout.gate.controls import Controls
from hedgerow.rollout.gate.errand import Ended
from hedgerow.rollout.gate.judge import judge
from hedgerow.rollout.gate.prometheus import Queries
from hedgerow.rollout.gate.rules import Rules
from hedgerow.rollout.gate.samples import STOOD_IN, Answer, Expectation, Kind, Look, Window, summary
from hedgerow.rollout.gate.verdicts import CriterionResult, Judgement, Verdict
from hedgerow.rollout.gate.watcher import Watcher
from hedgerow.rollout.plan import Release
from hedgerow.rollout.policy import Policy

NEVER = float("inf")


class Clock(Protocol):
    """Time, so that tests need none."""

    @property
    def monotonic(self) -> Callable[[], float]:
        """Seconds on a steady clock."""

    @property
    def sleep(self) -> Callable[[float], None]:
        """Wait for seconds."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a verdict rests on; ``before`` and ``after`` are figures by metric."""

    looks: int
    seconds: float
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    criteria: list[CriterionResult] = []


def _nobody() -> str | None:
    return None


class GateSession:
    """Watches one host. ``stop`` says why the watch is to end, or None; it is asked at least once a second.

    ``before`` is what ``baseline`` measured before the activation. ``controls`` are watchers of hosts that do not have
    the release yet, by name; ``controls_before`` is what they answered before the activation. ``start_s``: seconds in
    which the server loaded the model, if the activation said so.
    """

    def __init__(
        self,
        watcher: Watcher,
        release: Release,
        expected: Expectation,
        policy: Policy,
        *,
        clock: Clock,
        stop: Callable[[], str | None] = _nobody,
        before: Window | None = None,
        controls: Mapping[str, Watcher] | None = None,
        controls_before: Mapping[str, Window] | None = None,
        queries: Queries | None = None,
        start_s: float | None = None,
    ) -> None:
        self._watcher = watcher
        self._release = release
        self._expected = expected
        self._policy = policy
        self._clock = clock
        self._stop = stop
        self._queries = queries
        self._probes = policy.gate.probes
        self._rules = Rules.of(policy, release.slo)
        compared = bool(controls) and policy.gate.needs_controls
        self._weigh = policy.gate.weighs
        self._controls = (
            Controls(controls or {}, release, self._run, controls_before, weigh=self._weigh) if compared else None
        )
        self.before = before
        self.after = Window(start_s=start_s)
        self._order = pace.order(len(release.questions), () if before is None else before.questions)
        self._next_at = -NEVER
        self._unsure: Answer | None = None
        self._asked_to_stop_at = -NEVER
        self._judgement: Judgement | None = None
        self._seconds = 0.0

    def baseline(self) -> Window:
        """Measure the host as it is, for ``probes.baseline_s`` at most; ``before`` afterwards.

        Answers are not judged: the version that serves now need not know this release's.
        """
        window = Window()
        try:
            self._heed()
            if self._controls is not None:
                self._controls.look_at_all()
            started = self._clock.monotonic()
            window.see(self._look())
            if window.looks[0].version is not None:
                self._ask_before(window, until=started + self._probes.baseline_s)
                window.see(self._look())
                if self._controls is not None:
                    self._controls.look_at_all()
        except Ended:
            pass  # The step that follows finds out for itself that the rollout has stopped.
        self.before = window
        return window

    def _ask_before(self, window: Window, *, until: float) -> None:
        for number in itertools.cycle(self._release.comparable):
            if window.asked >= self._probes.count or self._clock.monotonic() >= until:
                return
            answer = self._put(number)
            if answer.kind is Kind.LOST:
                return
            kind = Kind.RIGHT if answer.kind is Kind.WRONG else answer.kind
            window.hear(msgspec.structs.replace(answer, kind=kind))
            rested_at = self._clock.monotonic() + pace.pause_s(self._probes, _took_s(answer), shortest_soak_s=None)
            if self._controls is not None:
                self._controls.ask(number)
            self._wait(rested_at - self._clock.monotonic())

    @property
    def controls_measured(self) -> dict[str, Window]:
        """What hosts without the release have answered so far; after ``baseline``, to be kept for ``run``."""
        return {} if self._controls is None else self._controls.measured

    def run(self) -> Judgement:
        """Watch the host until there is a verdict, or ``stop`` says why there will be none (``STOPPED``)."""
        started = self._clock.monotonic()
        try:
            self._judgement = self._watch(started)
        except Ended as ended:
            reason = f"the rollout has stopped: {ended}"
            self._judgement = Judgement(verdict=Verdict.STOPPED, reason=reason, final=True)
        self._seconds = round(self._clock.monotonic() - started, 3)
        return self._judgement

    def evidence(self) -> Evidence:
        """What was seen, for the journal."""
        return Evidence(
            looks=self.after.looked,
            seconds=self._seconds,
            before={} if self.before is None else summary(self.before),
            after=summary(self.after),
            criteria=[] if self._judgement is None else list(self._judgement.criteria),
        )

    def _watch(self, started: float) -> Judgement:
        interval_s = self._policy.soak.interval_s
        while True:
            self._heed()
            due = self._clock.monotonic() + interval_s
            self._note(self._look())
            now = self._clock.monotonic()
            untouched = None if self._controls is None else self._controls.window
            judgement = judge(
                self.before,
                self.after,
                untouched,
                self._expected,
                self._rules,
                started=started,
                now=now,
                controls=() if self._controls is None else self._controls.pairs,
            )
            if judgement.final:
                return judgement
            if self._controls is not None:
                self._controls.look()
            self._ask_until(due)

    def _note(self, look: Look) -> None:
        """Take a look in. A question that got no answer from a host that is there is an error; else it was lost."""
        self.after.see(look)
        if self._unsure is not None and look.reached:
            self.after.hear(msgspec.structs.replace(self._unsure, kind=Kind.ERROR))
        self._unsure = None

    def _ask_until(self, due: float) -> None:
        latest = self.after.latest
        may_ask = latest is not None and latest.reached and latest.version is not None
        # What answers for it on a board under pressure is not the release.
        may_ask = may_ask and latest is not None and latest.reasons.isdisjoint(STOOD_IN)
        while (now := self._clock.monotonic()) < due:
            if may_ask and self._unsure is None and now >= self._next_at:
                self._ask()
            else:
                self._wait(min(due, max(self._next_at, now) if may_ask and self._unsure is None else due) - now)

    def _ask(self) -> None:
        answer = self._put(next(self._order))
        if answer.kind is Kind.LOST:
            self._unsure = answer
        self.after.hear(answer)
        rest_s = pace.pause_s(self._probes, _took_s(answer), shortest_soak_s=self._policy.soak.shortest_s)
        self._next_at = self._clock.monotonic() + rest_s
        if self._probes.count == 0 and self.after.asked:
            self._next_at = NEVER
        if self._controls is not None and answer.question in self._release.comparable:
            self._controls.ask_after(self.after.asked, answer.question)

    def _put(self, number: int) -> Answer:
        within_s = self._probes.timeout_s
        return self._run(lambda: self._watcher.probe(self._release, number, timeout_s=within_s, weigh=self._weigh))

    def _look(self) -> Look:
        look = self._run(self._watcher.look)
        if self._queries is None or not look.reached:
            return look
        answers = self._run(self._queries.ask)
        return msgspec.structs.replace(
            look, queries=answers.values, unanswered=answers.unanswered, outage=answers.outage
        )

    def _run(self, work: Callable[[], errand.Result]) -> errand.Result:
        return errand.run(work, self._stop)

    def _wait(self, seconds: float) -> None:
        end = self._clock.monotonic() + seconds
        while True:
            self._heed()
            left = end - self._clock.monotonic()
            if left <= 0:
                return
            self._clock.sleep(min(left, errand.ASK_EVERY_S))

    def _heed(self) -> None:
        """End the watch where somebody asks to; asked twice a second, for it reads the journal."""
        now = self._clock.monotonic()
        if now - self._asked_to_stop_at < errand.ASK_EVERY_S:
            return
        self._asked_to_stop_at = now
        reason = self._stop()
        if reason is not None:
            raise Ended(reason)


def _took_s(answer: Answer) -> float:
    return 0.0 if answer.latency_ms is None else answer.latency_ms / 1000
