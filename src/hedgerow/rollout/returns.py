"""How one host comes back to the version before, and what every step of a turn shares.

Each writes the journal. ``undo`` has the rules of going back; here is when it is done, and as what it counts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from hedgerow.errors import DeviceError, NetworkError
from hedgerow.rollout import decide, events, kinds, way_back
from hedgerow.rollout.events import FAILED, Outcome
from hedgerow.rollout.gate.verdicts import Verdict
from hedgerow.rollout.hostline import Clock, Device, HostLine
from hedgerow.rollout.journal import Journal, timestamp
from hedgerow.rollout.undo import Return, Way, bring_back

DRAIN_S = 60
"""Within which requests that run must have ended: a long answer of a language model, and a margin."""
MOST_DRAINED_S = 3600
"""The server's own bound of a drain (``hedgerow.server.drain``)."""
LISTEN_S = 30

ENDED = "stopped"
"""Verdict of a gate that the rollout's stop has ended."""

_AFTER_VERDICT = {
    "environment": Outcome.ENVIRONMENT,
    "no_data": Outcome.UNJUDGED,
    ENDED: Outcome.UNDONE,
}
"""What a host is once it is back on the version before, by its gate's verdict; reverted for any other."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What a step did. ``go`` False: the host's turn is over. ``failed``: it must be undone.

    Of ``undo``, ``go`` says that the host is to be tried again, once nobody waits any more.
    """

    msg: str
    go: bool = True
    changed: bool = False
    failed: bool = False


class HostReturns:
    """Bringing one host back: in its turn, after it, or when it was lost."""

    def __init__(self, host: str, journal: Journal, device: Device, clock: Clock | None = None) -> None:
        self.host = host
        self._journal = journal
        self._clock = clock or Clock()
        self._line = HostLine(host, device, self._clock, self._again)
        plan = journal.read().plan
        self._release = plan.release
        self._policy = plan.policy

    def revert(self, reason: str) -> Step:
        """Bring the host back to the version before, whatever state its activation was left in."""
        state = self._journal.read()
        own = outcome_after(state.hosts[self.host].verdict)
        patient = not way_back.others_wait(state, self.host, fails=own in FAILED)
        back = self._bring_back(reason, patient=patient)
        note = _deadline(back) + _later(back, patient=patient)
        return self._finish(back.outcome or own, f"{reason}; {back.text}{note}", changed=back.changed)

    def undo(self) -> Step:
        """Bring the host back because the rollout was stopped or rolled back, if it is one of those."""
        state = self._journal.read()
        known = state.hosts[self.host]
        patient = not way_back.others_wait(state, self.host)
        if known.outcome is Outcome.LOST:
            return self.resolve(patient=patient)
        if self.host not in decide.to_undo(state):
            return Step(go=False, msg="stays as it is")
        reason = known.fell or state.stopped or "the rollout was stopped"
        confirmed = known.outcome is Outcome.CONFIRMED
        back = self._bring_back(reason, patient=patient)
        own = Outcome.UNDONE if known.fell is None else Outcome.REVERTED
        if not confirmed:
            own = Outcome.UNDONE if known.verdict in {None, Verdict.PASS} else outcome_after(known.verdict)
        note = "; it keeps the release until it is reached" if confirmed and back.outcome is Outcome.LOST else ""
        text = f"{reason}; {back.text}{note or _deadline(back)}{_later(back, patient=patient)}"
        self._record(events.HostUndone, outcome=back.outcome or own, reason=text)
        again = back.outcome is Outcome.LOST and not patient
        return Step(go=again, changed=back.changed, msg=f"{back.outcome or own}: {text}")

    def resolve(self, *, patient: bool = True) -> Step:
        """Say what became of a lost host, and bring it back if nobody did. Not ``patient``: in one try."""
        known = self._journal.read().hosts[self.host]
        back = self._bring_back("it was lost in a rollout", patient=patient)
        if back.outcome is Outcome.LOST:
            return Step(go=not patient, msg=f"still lost: {back.text}{_later(back, patient=patient)}")
        how = "was brought back now" if back.changed else "had gone back by itself"
        outcome = back.outcome or Outcome.REVERTED
        text = f"{known.reason}; then it returned and {how if back.outcome is None else 'stays'}: {back.text}"
        self._record(events.HostResolved, outcome=outcome, reason=text)
        return Step(go=False, changed=back.changed, msg=f"{outcome}: {text}")

    def _bring_back(self, reason: str, *, patient: bool = True) -> Return:
        before = self._journal.read().hosts[self.host].before
        tries = iter(range(1, self._policy.retry.attempts + 1))

        def again(error: NetworkError) -> bool:
            wait_s = self._again(next(tries), error) if patient else None
            if wait_s is not None:
                self._clock.sleep(wait_s)
            return wait_s is not None

        way = Way(
            release=self._wanted,
            before=before,
            had=lambda report: kinds.had(report, self._release),
            command=kinds.revert(self._release, reason),
            drain=self._drain_to_go_back,
            first_goes=self._release.kind == "application",
        )
        back = bring_back(self._line, way, timeout_s=self._policy.activate_within_s, again=again)
        if back.outcome is not None:
            self._undrain()
        return back

    @property
    def _which(self) -> list[str]:
        """How ``hedgerow-device`` is told the variant that the plan has for this host; nothing where there is one."""
        plan = self._journal.read().plan
        place = plan.placements.get(self.host) if plan.release.kind == "model" and plan.release.builds else None
        return [] if place is None else ["--variant", place.variant]

    @property
    def _wanted(self) -> str:
        """What this host is to have of the release, as ``hedgerow-device`` names it."""
        return kinds.wanted(self._release, self.host)

    def _drain(self) -> dict[str, Any]:
        """Have the server take no new requests, and end by itself what it has. Raises as ``HostLine.run``.

        The device takes requests again by itself after the longest activation, whatever becomes of this process.
        """
        within_s = min(self._policy.activate_within_s + DRAIN_S, MOST_DRAINED_S)
        return self._line.run_once(
            ["drain", "--within", str(within_s), "--wait", str(DRAIN_S)], timeout_s=DRAIN_S + LISTEN_S
        )

    def _drain_to_go_back(self) -> None:
        """The same before a restart that has to be: a server that is down or busy does not hold it up."""
        if decide.drains(self._release.kind):
            with suppress(NetworkError, DeviceError):
                self._drain()

    def _undrain(self) -> Step:
        """Have the server take requests again. Never fails: the device has a limit, too."""
        if not decide.drains(self._release.kind):
            return Step(msg="stays in service")
        try:
            answer = self._line.run(["undrain"])
        except (NetworkError, DeviceError) as error:
            return Step(msg=f"its drain ends by its own limit; it could not be told: {error.what}")
        return Step(changed=bool(answer.get("changed")), msg="takes requests")

    def _again(self, attempt: int, error: NetworkError) -> float | None:
        wait_s = self._policy.retry.wait_s(attempt)
        if wait_s is not None:
            self._record(events.HostRetried, attempt=attempt, cause=error.what, after_s=wait_s)
        return wait_s

    def _finish(self, outcome: Outcome, reason: str, *, changed: bool = False) -> Step:
        self._record(events.HostFinished, outcome=outcome, reason=reason)
        return Step(go=False, changed=changed, msg=f"{outcome}: {reason}")

    def _record(self, kind: Callable[..., events.Event], **fields: object) -> None:
        self._journal.record(kind(at=timestamp(self._clock.now()), host=self.host, **fields))


def outcome_after(verdict: str | None) -> Outcome:
    """What a host that is back on the version before counts as, by its gate's verdict (None: it had none)."""
    return _AFTER_VERDICT.get(verdict or "", Outcome.REVERTED)


def _deadline(back: Return) -> str:
    return "; its own deadline will take it back" if back.outcome is Outcome.LOST else ""


def _later(back: Return, *, patient: bool) -> str:
    return "; tried once, and again when the others are back" if back.outcome is Outcome.LOST and not patient else ""
