"""What happens to one host, step by step; each step writes the journal and says whether to go on.

Transport-free: ``Device`` runs ``hedgerow-device`` on the host, ``Watcher``
looks at it over mutual TLS, ``Clock`` waits. ``playbooks/rollout.yml`` puts the
steps in order; tests do the same in memory.

- A step never leaves a host touched and unjournaled: ``HostStarted`` is on the
  disk before the device is asked to serve anything else. Staging before that
  changes nothing in serving.
- A host that was started comes to an end: it is never refused or passed over.
- A rollout that takes back what it has done confirms nobody: who is in the middle
  of a turn ends it and goes back.
- A host that cannot be reached for undoing, or whose server does not come back to
  say what it serves, is ``lost``: it counts as failed. Its own confirm deadline
  takes it back, and its next turn resolves what became of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from hedgerow.errors import DeviceError, NetworkError
from hedgerow.rollout import decide, events, holds, kinds, preflight
from hedgerow.rollout.events import Outcome, State
from hedgerow.rollout.gate import baseline
from hedgerow.rollout.gate.controls import choose_controls
from hedgerow.rollout.gate.prometheus import Queries
from hedgerow.rollout.gate.samples import Window
from hedgerow.rollout.gate.session import Evidence, GateSession
from hedgerow.rollout.gate.verdicts import Verdict
from hedgerow.rollout.gate.watcher import Watcher
from hedgerow.rollout.hostline import Clock, Device
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.returns import ENDED, Step, outcome_after
from hedgerow.rollout.staging import Deliver, HostStaging

__all__ = ["Clock", "Device", "HostSteps", "Step", "outcome_after"]


DRAINING = "draining"
"""The health report's code for a server that takes no new requests."""


class HostSteps(HostStaging):
    """The steps of one host's turn. ``attend`` journals what operators have asked meanwhile.

    ``peers`` makes a watcher of another host, for a gate that compares with untouched ones; ``labels`` are what its
    queries may say of this one (``site``, ``fleet``, ``address``). ``deliver`` brings what no registry has.
    """

    def __init__(  # noqa: PLR0917 - one argument for each thing a turn needs from outside
        self,
        host: str,
        journal: Journal,
        device: Device,
        watcher: Callable[[], Watcher],
        clock: Clock | None = None,
        attend: Callable[[], object] = lambda: None,
        peers: Callable[[str], Watcher] | None = None,
        labels: Mapping[str, str] | None = None,
        deliver: Deliver | None = None,
    ) -> None:
        super().__init__(host, journal, device, clock, deliver)
        self._watcher = watcher
        self._attend = attend
        self._peers = peers
        self._labels = {"host": host} | dict(labels or {})

    # -- before the host is touched ---------------------------------------

    def preflight(self) -> Step:
        """Ask the journal whether it is this host's turn, then the host whether there is anything to do."""
        self._attend()
        state = self._journal.read()
        known = state.hosts[self.host]
        if known.outcome is Outcome.LOST:
            return self.resolve()
        over = self._not_its_turn(state) or self._held(started=known.started_at is not None)
        if over is not None:
            return over
        try:
            report = self._line.report()
        except (NetworkError, DeviceError) as error:
            return self._silent(error, started=known.started_at is not None)
        ended = preflight.had(report, self._release, known, self._wanted)
        if ended is None and known.started_at is None:
            place = state.plan.placements.get(self.host)
            ended = preflight.unfit(report, self._release, place, self._wanted) or self._unseen()
        if ended is not None:
            return self._finish(*ended)
        if known.started_at is None:
            # A drain is this rollout's own, of a run that was cut off, and no excuse for one that lasts.
            baseline = sorted(reason.code for reason in report.troubles if reason.code != DRAINING)
            self._record(events.HostPrepared, before=kinds.had(report, self._release), baseline=baseline)
        return Step(msg=f"serves {kinds.had(report, self._release) or 'nothing'} and is to serve {self._wanted}")

    def drain(self) -> Step:
        """Have the server end its requests and take no new ones, where the release's kind changes more than a model.

        Before that the host is measured, for it answers nobody while it is drained. One that cannot be drained is
        left as it is.
        """
        if not decide.drains(self._release.kind):
            return Step(msg="stays in service")
        if self._journal.read().hosts[self.host].started_at is None:
            self._attend()
            over = self._not_its_turn(self._journal.read())
            if over is None:
                self._measure()
                over = self._not_its_turn(self._journal.read())
            if over is not None:
                return over
        try:
            self._drain()
        except (NetworkError, DeviceError) as error:
            return self._undrained(error)
        return Step(changed=True, msg="takes no new requests")

    def undrain(self) -> Step:
        """Have the server take requests again, however the turn came out. Never fails: the device has a limit, too."""
        return self._undrain()

    # -- the change -------------------------------------------------------

    def activate(self) -> Step:
        """Have the device try and serve the release, under its own deadline."""
        self._attend()
        state = self._journal.read()
        known = state.hosts[self.host]
        if known.started_at is None:
            over = self._not_its_turn(state)
            if over is None and not decide.drains(self._release.kind):
                self._measure()
                over = self._not_its_turn(self._journal.read())
            if over is not None:
                return over
            self._record(events.HostStarted, before=known.before, baseline=known.baseline)
        elif known.verdict not in {None, Verdict.PASS}:
            return Step(failed=True, msg=f"its gate had said {known.verdict} before the run was cut off")
        started = self._clock.monotonic()
        arguments = ["activate", self._wanted, *self._which, "--confirm-within", str(self._policy.confirm_within_s)]
        try:
            answer = self._line.run(arguments, timeout_s=self._policy.activate_within_s)
        except (NetworkError, DeviceError) as error:
            return Step(failed=True, msg=f"activation failed: {error.what}")
        seconds = round(self._clock.monotonic() - started, 3)
        if not answer.get("changed"):
            self._undrain()  # it had it before the run was cut off: no restart has ended the drain, and the gate asks
        load_s = answer.get("load_s")
        load_s = float(load_s) if isinstance(load_s, int | float) else None
        self._record(events.HostActivated, seconds=seconds, load_s=load_s)
        return Step(changed=bool(answer.get("changed")), msg=f"activated in {seconds:.1f} s, to be confirmed")

    def gate(self) -> Step:
        """Watch the host and ask it the release's questions until the policy has its verdict."""
        session = self._session(before=baseline.load(self._journal.folder, self.host))
        judgement = session.run()
        return self._judged(judgement.verdict, judgement.reason, session.evidence())

    def confirm(self) -> Step:
        """End the device's deadline: from here on it keeps the release."""
        stop = self.interrupted()
        if stop is not None:
            return self._judged(ENDED, f"the rollout has stopped: {stop}", Evidence(looks=0, seconds=0.0))
        try:
            self._line.run(["confirm", self._wanted])
        except (NetworkError, DeviceError) as error:
            return Step(failed=True, msg=f"confirmation failed: {error.what}")
        return self._finish(Outcome.CONFIRMED, self._journal.read().hosts[self.host].reason or "passed its gate")

    def drill(self) -> Step:
        """Go back and forward again, so that the way back is known to work before others depend on it."""
        known = self._journal.read().hosts[self.host]
        if known.before is None:
            return Step(msg="no drill: nothing was served before")
        back = self._bring_back("the rollout's drill of the way back")
        if back.outcome is not None:
            return Step(failed=True, msg=f"the drill failed: {back.text}")
        self._drain_to_go_back()
        again = self.activate()
        return again if again.failed else self.gate()

    def interrupted(self) -> str | None:
        """Why the rollout takes back what it has done, operators' requests included; None while it does not.

        A stop that takes nothing back lets those in their turn come to its end.
        """
        self._attend()
        stop = decide.stopped(self._journal.read())
        return stop.reason if stop is not None and stop.undo else None

    # -- parts ------------------------------------------------------------

    def _not_its_turn(self, state: State) -> Step | None:
        decision = decide.host_may_start(state, self.host, self._clock.now())
        known = state.hosts[self.host]
        match decision:
            case decide.Finish():
                return Step(go=False, msg=f"{known.outcome} already in this rollout")
            case decide.Stop() if known.started_at is not None:
                return Step(go=False, msg=f"goes back with the others, the rollout has stopped: {decision.reason}")
            case decide.Stop():
                return Step(go=False, msg=f"not started, the rollout has stopped: {decision.reason}")
            case decide.Wait():
                return self._finish(Outcome.SKIPPED, f"{decision.code}: {decision.reason}")
        return None

    def _held(self, *, started: bool) -> Step | None:
        """Somebody held it after the plan was made; one whose turn was begun comes to its end."""
        if started:
            return None
        held = holds.standing(holds.read(self._journal.folder.parent), self._clock.now()).get(self.host)
        if held is None or held.hold is None:
            return None
        return self._finish(Outcome.SKIPPED, f"held by {held.hold.by}: {held.hold.reason}")

    def _measure(self) -> None:
        """Measure the host with the version before, for the gate to compare with."""
        session = self._session()
        baseline.save(self._journal.folder, self.host, session.baseline())
        baseline.save_controls(self._journal.folder, self.host, session.controls_measured)

    def _silent(self, error: NetworkError | DeviceError, *, started: bool) -> Step:
        """It gave no report: left as it is before its turn, brought back where that was cut off."""
        if started:
            return self.revert(f"its turn was cut off, and it gave no report: {error.what}")
        outcome = Outcome.UNREACHABLE if isinstance(error, NetworkError) else Outcome.REFUSED
        return self._finish(outcome, error.what)

    def _undrained(self, error: NetworkError | DeviceError) -> Step:
        """Requests still run, or nobody answers: it is left as it is, or brought back where its turn was cut off."""
        if self._journal.read().hosts[self.host].started_at is not None:
            return Step(failed=True, msg=f"it could not be drained: {error.what}")
        self._undrain()
        outcome = Outcome.UNREACHABLE if isinstance(error, NetworkError) else Outcome.REFUSED
        return self._finish(outcome, f"it could not be drained: {error.what}")

    def _unseen(self) -> tuple[Outcome, str] | None:
        unseen = preflight.unseen(self._watcher().look())
        return None if unseen is None else (Outcome.REFUSED, unseen)

    def _session(self, *, before: Window | None = None) -> GateSession:
        known = self._journal.read().hosts[self.host]
        expected = kinds.expectation(self._release, self.host, known.baseline)
        rules = self._policy.gate.prometheus
        return GateSession(
            self._watcher(),
            self._release,
            expected,
            self._policy,
            clock=self._clock,
            stop=self.interrupted,
            before=before,
            controls=self._controls(),
            controls_before=baseline.load_controls(self._journal.folder, self.host),
            queries=None if rules is None else Queries(rules, self._labels),
            start_s=known.load_s,
        )

    def _controls(self) -> dict[str, Watcher]:
        """Hosts without the release, where answers are compared; those first that were asked before the activation."""
        if self._peers is None or not self._policy.gate.needs_controls:
            return {}
        state = self._journal.read()
        asked = baseline.load_controls(self._journal.folder, self.host)
        names = choose_controls(state.plan, state, self.host, self._policy.gate.controls, asked)
        return {name: self._peers(name) for name in names}

    def _judged(self, verdict: str, reason: str, seen: Evidence) -> Step:
        self._record(events.HostJudged, verdict=verdict, reason=reason, **msgspec.structs.asdict(seen))
        return Step(failed=verdict != Verdict.PASS, msg=f"gate says {verdict}: {reason}")
