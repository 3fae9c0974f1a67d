"""The way back of simulated hosts: one that failed, all that a stop takes back, one that was lost."""

from __future__ import annotations

from collections.abc import Callable

from hedgerow.rollout import events
from hedgerow.rollout.events import Outcome
from hedgerow.rollout.gate.verdicts import Verdict
from hedgerow.rollout.simulate.machine import Done, Machine
from hedgerow.rollout.steps import outcome_after


class Returns(Machine):
    """As ``rollout.undo`` and the steps ``revert``, ``undo`` and ``resolve``."""

    def _unserve(self, host: str) -> None:
        served = self.served.get(host)
        if served is not None:
            self.served[host] = served.until(self._now)

    def _bring_back(self, host: str, then: Callable[[Outcome | None], None]) -> None:
        """``then`` gets ``LOST`` where the host cannot be reached, else None."""
        if self._gone.get(host, 0.0) <= self._now:

            def back() -> None:
                self._unserve(host)
                then(None)

            return self._later(self._model.revert_s, back)
        tries = self._plan.policy.retry
        waits = [wait for attempt in range(1, tries.attempts) if (wait := tries.wait_s(attempt)) is not None]
        return self._later(tries.attempts * self._model.silent_s + sum(waits), lambda: then(Outcome.LOST))

    def _revert(self, host: str, done: Done) -> None:
        def then(lost: Outcome | None) -> None:
            verdict = self.state.hosts[host].verdict
            outcome = lost or outcome_after(verdict)
            text = "it cannot be reached to go back" if lost else "serves what it served before"
            self._finish(host, outcome, f"{self._failed[host]}; {text}")
            done()

        self._bring_back(host, then)

    def _undo(self, host: str, done: Done) -> None:
        known = self.state.hosts[host]

        def then(lost: Outcome | None) -> None:
            own = Outcome.UNDONE if known.fell is None else Outcome.REVERTED
            if known.outcome is not Outcome.CONFIRMED and known.verdict not in {None, Verdict.PASS}:
                own = outcome_after(known.verdict)
            outcome = lost or own
            reason = known.fell or self.state.stopped or "the rollout was stopped"
            self._record(events.HostUndone(at=self._at(), host=host, outcome=outcome, reason=reason))
            done()

        self._bring_back(host, then)

    def _settle_lost(self) -> None:
        """Lost hosts return, and their own deadline has taken them back by then or not; both are looked at."""
        for host in list(self.state.lost):
            self._now = max(self._now, self._gone.get(host, self._now))
            self._unserve(host)
            reason = "it returned, on the version before"
            self._record(events.HostResolved(at=self._at(), host=host, outcome=Outcome.REVERTED, reason=reason))
