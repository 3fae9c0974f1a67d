"""The way back of simulated hosts: one that failed, all that a stop takes back, one that was lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hedgerow.rollout import events, way_back
from hedgerow.rollout.events import FAILED, Outcome
from hedgerow.rollout.gate.verdicts import Verdict
from hedgerow.rollout.simulate.machine import Done, Machine
from hedgerow.rollout.steps import outcome_after


class Returns(Machine):
    """As ``rollout.undo`` and the steps ``revert``, ``undo`` and ``resolve``."""

    def _unserve(self, host: str) -> None:
        served = self.served.get(host)
        if served is not None:
            self.served[host] = served.until(self._now)

    def _bring_back(self, host: str, then: Callable[[Outcome | None], None], *, patient: bool) -> None:
        """``then`` gets ``LOST`` where the host cannot be reached, else None. Not ``patient``: it is tried once."""
        if self._gone.get(host, 0.0) <= self._now:

            def back() -> None:
                self._unserve(host)
                then(None)

            return self._later(self._model.revert_s + self._restart_s, back)
        retry = self._plan.policy.retry
        tries = retry.attempts if patient else 1
        waits = [wait for attempt in range(1, tries) if (wait := retry.wait_s(attempt)) is not None]
        return self._later(tries * self._model.silent_s + sum(waits), lambda: then(Outcome.LOST))

    def _revert(self, host: str, done: Done) -> None:
        own = outcome_after(self.state.hosts[host].verdict)

        def then(lost: Outcome | None) -> None:
            outcome = lost or own
            text = "it cannot be reached to go back" if lost else "serves what it served before"
            self._finish(host, outcome, f"{self._failed[host]}; {text}")
            done()

        self._bring_back(host, then, patient=not way_back.others_wait(self.state, host, fails=own in FAILED))

    def _all_back(self, hosts: Sequence[str], *, together: bool = True) -> None:
        """As the play that brings back; not ``together``, as a wait does. Silent hosts are waited for at last."""
        self._again = []
        for _ in range(2):
            for lot in [hosts] if together else [[host] for host in hosts]:
                self._do(lot, self._undo)
            hosts = list(self._again)

    def _undo(self, host: str, done: Done) -> None:
        known = self.state.hosts[host]
        patient = not way_back.others_wait(self.state, host)
        if known.outcome is Outcome.LOST:
            return self._resolve(host, done, patient=patient)

        def then(lost: Outcome | None) -> None:
            own = Outcome.UNDONE if known.fell is None else Outcome.REVERTED
            if known.outcome is not Outcome.CONFIRMED and known.verdict not in {None, Verdict.PASS}:
                own = outcome_after(known.verdict)
            outcome = lost or own
            reason = known.fell or self.state.stopped or "the rollout was stopped"
            self._record(events.HostUndone(at=self._at(), host=host, outcome=outcome, reason=reason))
            if lost and not patient:
                self._again.append(host)
            done()

        return self._bring_back(host, then, patient=patient)

    def _resolve(self, host: str, done: Done, *, patient: bool) -> None:
        def then(lost: Outcome | None) -> None:
            if not lost:
                self._returned(host)
            elif not patient:
                self._again.append(host)
            done()

        self._bring_back(host, then, patient=patient)

    def _returned(self, host: str) -> None:
        self._unserve(host)
        reason = "it returned, on the version before"
        self._record(events.HostResolved(at=self._at(), host=host, outcome=Outcome.REVERTED, reason=reason))

    def _settle_lost(self) -> None:
        """Lost hosts return, and their own deadline has taken them back by then or not; both are looked at."""
        for host in list(self.state.lost):
            self._now = max(self._now, self._gone.get(host, self._now))
            self._returned(host)
