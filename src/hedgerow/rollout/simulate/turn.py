"""A batch of simulated hosts, step by step as ``playbooks/rollout.yml`` and ``rollout.steps`` have it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from hedgerow.rollout import decide, events
from hedgerow.rollout.decide import Go, Wait
from hedgerow.rollout.events import Outcome
from hedgerow.rollout.gate.verdicts import Verdict
from hedgerow.rollout.simulate.back import Returns
from hedgerow.rollout.simulate.fleet import link_bytes_s
from hedgerow.rollout.simulate.gate import OLD
from hedgerow.rollout.simulate.links import Link
from hedgerow.rollout.simulate.machine import Done
from hedgerow.rollout.simulate.outcome import Served


class Turns(Returns):
    """The steps of a turn; each calls ``done`` when its host is ready for the next."""

    def _batch(self, wave: int, hosts: list[str]) -> None:
        self._failed = {}
        going = hosts
        self._do(going, self._preflight)
        going = self._left(going)
        self._do(going, self._stage)
        going = self._left(going)
        self._do(going, self._activate)
        self._do(self._left(going), self._watch)
        if self._plan.policy.rollback.drill and wave == 1:
            self._do(self._left(going), self._drill)
        self._do(self._left(going), self._confirm)
        self._do(list(self._failed), self._revert)

    def _left(self, hosts: Iterable[str]) -> list[str]:
        known = self.state.hosts
        return [
            host for host in hosts if known[host].outcome is None and host not in self._failed and self._may_go_on(host)
        ]

    def _may_go_on(self, host: str) -> bool:
        """``not started`` leaves no outcome: the host had its turn to be asked, and is passed over."""
        known = self.state.hosts[host]
        return known.started_at is not None or decide.stopped(self.state) is None

    def _held_back(self, host: str) -> bool:
        match decide.host_may_start(self.state, host, self._moment()):
            case Go():
                return False
            case Wait() as wait:
                self._finish(host, Outcome.SKIPPED, f"{wait.code}: {wait.reason}")
        return True

    def _preflight(self, host: str, done: Done) -> None:
        if self._held_back(host):
            return done()
        if self._devices[host].unreachable:

            def silent() -> None:
                self._finish(host, Outcome.UNREACHABLE, "no answer")
                done()

            return self._later(self._model.silent_s, silent)
        self._record(events.HostPrepared(at=self._at(), host=host, before=OLD))
        return done()

    def _stage(self, host: str, done: Done) -> None:
        closed = decide.may_fetch(self.state, self._moment())
        if closed is not None:
            self._finish(host, Outcome.SKIPPED, f"{closed.code}: {closed.reason}")
            return done()
        began = self._now
        site, size = self._devices[host].site, self._plan.release.size_bytes
        link = self.links.get(site)
        if link is None:
            link = self.links[site] = Link(link_bytes_s(site, self._model, self._seed))
        within = float(self._plan.policy.activate_within_s * self._plan.policy.retry.attempts)

        def staged() -> None:
            took = self._now - began
            if took > within:
                self._finish(host, Outcome.SKIPPED, f"staging took longer than {within:g} s")
                self._record(events.Stopped(at=self._at(), reason=f"{host} could not get the release in {within:g} s"))
            else:
                self._record(events.HostStaged(at=self._at(), host=host, seconds=round(took, 3), new_bytes=size))
            done()

        self._fetching[host] = staged
        link.begin(host, size, self._now)
        return self._foresee(link)

    def _foresee(self, link: Link) -> None:
        """Put the link's next completion on the queue; one that was there before becomes stale."""
        soonest = link.next_done()
        if soonest is None:
            return
        version = link.version

        def arrived() -> None:
            if link.version != version:
                return
            host = link.finish(self._now)
            self._foresee(link)
            self._fetching.pop(host)()

        self._later(max(0.0, soonest[0] - self._now), arrived)

    def _activate(self, host: str, done: Done) -> None:
        if self._held_back(host):
            return done()
        self._baselines[host], took = self._gate.baseline(self._devices[host])
        return self._later(took, lambda: self._switch(host, done))

    def _switch(self, host: str, done: Done) -> None:
        if self._held_back(host):
            return done()
        device, known = self._devices[host], self.state.hosts[host]
        self._record(events.HostStarted(at=self._at(), host=host, before=known.before))
        took = (self._model.activate_s + self._restart_s) * math.exp(self._draw.gauss(0, self._model.activate_spread))

        def switched() -> None:
            if device.lost:
                self._gone[host] = self._now + self._model.away_s
                self._serve(host, until=self._now + self._plan.policy.confirm_within_s)
                self._failed[host] = "activation failed: the line broke"
            elif device.failing or self._flaw.kind == "broken":
                self._failed[host] = "activation failed: its trial did"
            else:
                self._serve(host)
                self._record(events.HostActivated(at=self._at(), host=host, seconds=round(took, 3)))
            done()

        return self._later(took, switched)

    def _serve(self, host: str, until: float = math.inf) -> None:
        device = self._devices[host]
        after = self._flaw.hurts_after_s(passive=device.passive, lot=device.lot)
        self._switched[host] = self._now
        self.served[host] = Served(self._now, until, None if after is None else self._now + after)

    def _watch(self, host: str, done: Done) -> None:
        began, device = self._now, self._devices[host]
        if self.state.stopped is not None and self.state.undo:
            return self._judged(host, Verdict.STOPPED, f"the rollout has stopped: {self.state.stopped}", done)
        seen = self._gate.watch(
            device,
            self._baselines.pop(host),
            since_switch_s=self._now - self._switched[host],
            hurts_after_s=self._flaw.hurts_after_s(passive=device.passive, lot=device.lot),
        )

        def ended() -> None:
            if self._gates.pop(host, None) is None:
                return
            event = events.HostJudged(
                at=self._at(),
                host=host,
                verdict=seen.judgement.verdict,
                reason=seen.judgement.reason,
                looks=seen.looks,
                seconds=round(self._now - began, 3),
                before=seen.before,
                after=seen.after,
                criteria=seen.criteria if self._keep else [],
            )
            self._record(event)
            if seen.judgement.verdict is not Verdict.PASS:
                self._failed[host] = f"gate says {seen.judgement.verdict}: {seen.judgement.reason}"
            done()

        def interrupted() -> None:
            if self._gates.pop(host, None) is not None:
                self._judged(host, Verdict.STOPPED, f"the rollout has stopped: {self.state.stopped}", done)

        self._gates[host] = interrupted
        return self._later(seen.seconds, ended)

    def _judged(self, host: str, verdict: Verdict, reason: str, done: Done) -> None:
        self._record(events.HostJudged(at=self._at(), host=host, verdict=verdict, reason=reason, looks=0, seconds=0.0))
        self._failed[host] = f"gate says {verdict}: {reason}"
        done()

    def _drill(self, host: str, done: Done) -> None:
        def back() -> None:
            self._unserve(host)
            self._baselines[host], _ = self._gate.baseline(self._devices[host])
            self._switch(host, lambda: self._watch(host, done) if host not in self._failed else done())

        self._later(self._model.revert_s, back)

    def _confirm(self, host: str, done: Done) -> None:
        stop = decide.stopped(self.state)
        if stop is not None and stop.undo:
            return self._judged(host, Verdict.STOPPED, f"the rollout has stopped: {stop.reason}", done)
        hurts_at = self.served[host].hurts_at
        if hurts_at is not None:
            self._confirmed_bad[host] = hurts_at
        self._finish(host, Outcome.CONFIRMED, self.state.hosts[host].reason or "passed its gate")
        return done()
