"""The mechanism over simulated devices: waves, forks, shared links, waits. No IO and no clock but its own.

- What may start, who goes back and what ends the rollout is asked of ``decide``,
  a host's health of ``gate.judge``; what happens is folded into ``events.State``
  as a journal's lines would be.
- Steps run as ``playbooks/rollout.yml`` runs them: one after the other, each on
  all hosts of a batch, ``forks`` at a time; hosts that failed go back after the
  batch's other hosts had their steps; the bringing back is a play of its own.
- A gate that is under way when the rollout takes back what it did ends within
  ``errand.ASK_EVERY_S``.
"""

from __future__ import annotations

import itertools
import math

from hedgerow.rollout import decide, events, spare, way_back
from hedgerow.rollout.decide import Finish, Go, Stop, Wait, WaitCode
from hedgerow.rollout.events import Outcome, Request, RequestKind
from hedgerow.rollout.patrol import AGAIN_S, LOOKERS, LOOKS_PER_S, sample
from hedgerow.rollout.simulate.machine import FORKS, START
from hedgerow.rollout.simulate.outcome import Result
from hedgerow.rollout.simulate.turn import Turns
from hedgerow.rollout.waiting import INTERVAL_S

__all__ = ["FORKS", "START", "Run"]

PATROLLED_PER_S = min(LOOKS_PER_S, LOOKERS / INTERVAL_S)
"""Looks that a wait begins in a second: it fills its threads once in each of its rounds."""
SHOWN_BY_A_LOOK = frozenset({"leak", "fails"})
"""Flaws that a host's own report shows."""
FELL = "failing: what the simulated release does"
WAITS_AT_MOST = 1000
"""A wait that nothing ends is a policy that cannot be met."""


class Run(Turns):
    """One simulated rollout."""

    def run(self) -> Result:
        """Run it to its end."""
        batches = self._batches()
        for number, hosts in batches:
            if not self._await(number):
                break
            passed = spare.passed_over(self.state, hosts)
            halt = spare.nobody_first(self.state, hosts, passed)
            if halt is not None:
                self._record(events.Stopped(at=self._at(), reason=halt))
                break
            for host, reason in passed.items():
                self._finish(host, Outcome.SKIPPED, reason)
            self._batch(number, hosts)
        self._note_stop()
        self._all_back(way_back.order(self.state))
        self._settle_lost()
        ended = self._now
        self._record(events.Closed(at=self._at()))
        return Result.of(self, ended)

    def _batches(self) -> list[tuple[int, list[str]]]:
        """Wave numbers and who has its turn together, as the play's ``serial`` cuts them."""
        hosts = iter(self._plan.hosts)
        wave_of = {host: number for number, wave in enumerate(self._plan.waves, start=1) for host in wave}
        cut = [list(itertools.islice(hosts, size)) for size in self._plan.serial]
        return [(wave_of[part[0]], part) for part in cut]

    # -- waits ------------------------------------------------------------

    def _await(self, wave: int) -> bool:
        """Whether the wave starts; what ``waiting.await_wave`` does, and the play around it."""
        promised: dict[WaitCode, float] = {}
        waits, looked = 0, False
        while waits < WAITS_AT_MOST:
            self._note_stop()
            match decide.next_wave(self.state, wave, self._moment()):
                case Go() if not looked:
                    looked = True
                    self._recheck()
                case Go():
                    if wave > self.state.wave:
                        self._record(events.WaveOpened(at=self._at(), number=wave, hosts=self._plan.waves[wave - 1]))
                    return True
                case Stop() | Finish():
                    return False
                case Wait() as wait:
                    waits += self._wait(wait, wave, promised)
        return False

    def _recheck(self) -> None:
        """Look at confirmed hosts before a wave, as ``waiting`` does; who falls goes back where the budget bears it."""
        rule = self._plan.policy.recheck
        names = sample(list(self.state.holding), after=self.state.rechecked, most=rule.hosts)
        if not names:
            return
        shows = self._flaw.kind in SHOWN_BY_A_LOOK
        bad = [host for host in names if shows and self._confirmed_bad.get(host, math.inf) <= self._now]
        again_s = (self._plan.policy.soak.passes - 1) * AGAIN_S if bad else 0.0
        self._now += min(rule.within_s, len(names) / PATROLLED_PER_S + again_s)
        self._record(events.Rechecked(at=self._at(), hosts=len(names), last=names[-1]))
        for host in bad:
            self._record(events.HostFell(at=self._at(), host=host, reason=FELL))
        if self.state.stopped is None:
            self._all_back(list(self.state.fallen), together=False)

    def _wait(self, wait: Wait, wave: int, promised: dict[WaitCode, float]) -> bool:
        """Wait; False if somebody fell meanwhile. ``promised``: when people answer, whoever falls until then."""
        began = self._now
        if self.state.waiting != (wait.code, wait.reason):
            self._record(events.Waiting(at=self._at(), code=wait.code, reason=wait.reason))
        if wait.until is None:
            until = max(self._now, promised.setdefault(wait.code, self._now + self._model.answers_s))
        else:
            until = max(self._now + 1.0, (wait.until - self._start).total_seconds())
        fell = self._patrol(until)
        if fell and self.state.stopped is None:
            # The play brings them back one after the other, before it goes on waiting.
            self._all_back(list(self.state.fallen), together=False)
        elif not fell:
            self._now = until
            promised.pop(wait.code, None)
            self._answer(wait, wave)
        self.waited_s[wait.code] = self.waited_s.get(wait.code, 0.0) + self._now - began
        return not fell

    def _patrol(self, until: float) -> bool:
        """Look at confirmed hosts until then; True if any fell.

        A host falls after some failing looks in a row, one in each round. The patrol of every wait begins anew.
        """
        if self._flaw.kind not in SHOWN_BY_A_LOOK:
            return False
        holding = [host for host in self.state.holding if host not in self.state.fallen]
        rows_s = self._plan.policy.soak.passes * max(INTERVAL_S, len(holding) / PATROLLED_PER_S)
        falls = {
            host: max(self._confirmed_bad[host], self._now) + rows_s for host in holding if host in self._confirmed_bad
        }
        first = min(falls.values(), default=math.inf)
        if first > until:
            return False
        self._now = first
        for host in [host for host, at in falls.items() if at < first + INTERVAL_S][:LOOKERS]:
            self._record(events.HostFell(at=self._at(), host=host, reason=FELL))
        return True

    def _answer(self, wait: Wait, wave: int) -> None:
        """People do what is waited for, once the model's time for it is over."""
        if wait.until is not None:
            return
        if wait.code is WaitCode.APPROVAL:
            for name in decide.approvers(self.state, wave):
                self._ask(RequestKind.APPROVE, by=name, wave=wave)
        else:
            self._ask(RequestKind.RESUME, by="operator", wave=None)

    def _ask(self, kind: RequestKind, *, by: str, wave: int | None) -> None:
        request = Request(kind=kind, rollout="simulated", by=by, at=self._at(), wave=wave)
        self._record(events.OperatorAsked(at=self._at(), request=request, refused=decide.refusal(self.state, request)))
