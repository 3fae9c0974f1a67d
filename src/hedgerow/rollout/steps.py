"""What happens to one host, step by step; each step writes the journal and says whether to go on.

Transport-free: ``Device`` runs ``hedgerow-device`` on the host, ``Watcher``
looks at it over mutual TLS, ``Clock`` waits. ``playbooks/rollout.yml`` puts the
steps in order; tests do the same in memory.

- A step never leaves a host touched and unjournaled: ``HostStarted`` is on the
  disk before the device is asked to change anything.
- Undoing looks first. A device that still serves the version before (its
  activation failed, or it went back by itself) is left alone: one more
  ``revert`` would take it a version too far.
- A host that cannot be reached for undoing, or whose server does not come back to
  say what it serves, is ``lost``: it counts as failed, and its own confirm
  deadline takes it back.
- A first installation has nothing to go back to. The device then keeps the
  release rather than serve nothing; the rollout counts it as failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from hedgerow.errors import DeviceError, NetworkError
from hedgerow.fleet.endpoint import Report
from hedgerow.rollout import events
from hedgerow.rollout.events import Outcome, State
from hedgerow.rollout.gate import judge
from hedgerow.rollout.gate.judge import Expectation, Look, Verdict
from hedgerow.rollout.gate.watcher import Watcher
from hedgerow.rollout.journal import Journal, timestamp
from hedgerow.rollout.policy import budgets
from hedgerow.rollout.remote import Completed, parse_answer, parse_report

DISK_MARGIN_MB = 100
"""Left free beside a new bundle, for logs and metadata."""


class Device(Protocol):
    """Runs ``hedgerow-device`` on the host."""

    def __call__(self, arguments: Sequence[str], *, timeout_s: int) -> Completed:
        """Run it with ``arguments``.

        Raises:
            NetworkError: The host could not be reached, or the line broke.
        """


SERVER_BACK_S = 20
"""Seconds within which systemd has restarted a server that crashed, and it has loaded a small model."""


@dataclass(frozen=True)
class Clock:
    """Time, so that tests need none."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What a step did. ``go`` False: the host's turn is over. ``failed``: it must be undone."""

    msg: str
    go: bool = True
    changed: bool = False
    failed: bool = False


class HostSteps:
    """The steps of one host's turn."""

    def __init__(
        self, host: str, journal: Journal, device: Device, watcher: Callable[[], Watcher], clock: Clock | None = None
    ) -> None:
        self.host = host
        self._journal = journal
        self._device = device
        self._watcher = watcher
        self._clock = clock or Clock()
        plan = self._state().plan
        self._release = plan.release
        self._policy = plan.policy

    def preflight(self) -> Step:
        """Ask the journal whether it is this host's turn, then the host whether there is anything to do."""
        state = self._state()
        over = _not_its_turn(state, self.host)
        if over is not None:
            return Step(go=False, msg=over)
        try:
            report = self._report()
        except NetworkError as error:
            return self._finish(Outcome.UNREACHABLE, error.what)
        except DeviceError as error:
            return self._finish(Outcome.REFUSED, error.what)
        if self._serves(report) and report.pending is None:
            return self._already(report)
        lack = self._lack(report)
        if lack is not None:
            return self._finish(Outcome.REFUSED, lack)
        if state.hosts[self.host].started_at is None:
            self._journal.append(
                events.HostStarted(
                    at=timestamp(),
                    host=self.host,
                    before=report.reference,
                    baseline=sorted(reason.code for reason in report.troubles),
                )
            )
        return Step(msg=f"serves {report.reference or 'nothing'} and is to serve {self._release.bundle}")

    def activate(self) -> Step:
        """Have the device fetch, verify, try and serve the release, under its own deadline."""
        started = self._clock.monotonic()
        arguments = ["activate", self._release.bundle, "--confirm-within", str(self._policy.confirm_within_s)]
        try:
            answer = self._run(arguments, timeout_s=self._policy.activate_within_s)
        except (NetworkError, DeviceError) as error:
            return Step(failed=True, msg=f"activation failed: {error.what}")
        seconds = round(self._clock.monotonic() - started, 3)
        self._journal.append(events.HostActivated(at=timestamp(), host=self.host, seconds=seconds))
        return Step(changed=bool(answer.get("changed")), msg=f"activated in {seconds:.1f} s, to be confirmed")

    def gate(self) -> Step:
        """Watch the host until the policy has its verdict, then ask it one question."""
        expected = Expectation(
            version=self._release.bundle,
            sha256=self._release.sha256,
            baseline=frozenset(self._state().hosts[self.host].baseline),
        )
        rules = self._policy.soak
        watcher = self._watcher()
        started = self._clock.monotonic()
        looks: list[Look] = []
        while True:
            looks.append(watcher.look())
            now = self._clock.monotonic()
            judgement = judge.soak(looks, expected, rules, started=started, now=now)
            if judgement.final:
                break
            self._clock.sleep(rules.interval_s)
        if judgement.verdict is Verdict.PASS:
            answer = watcher.ask(self._release)
            judgement = msgspec.structs.replace(answer, reason=f"{judgement.reason}; {answer.reason}")
        self._journal.append(
            events.HostJudged(
                at=timestamp(),
                host=self.host,
                verdict=judgement.verdict,
                reason=judgement.reason,
                looks=len(looks),
                seconds=round(self._clock.monotonic() - started, 3),
            )
        )
        passed = judgement.verdict is Verdict.PASS
        return Step(failed=not passed, msg=f"gate says {judgement.verdict}: {judgement.reason}")

    def confirm(self) -> Step:
        """End the device's deadline: from here on it keeps the release."""
        try:
            self._run(["confirm", self._release.bundle])
        except (NetworkError, DeviceError) as error:
            return Step(failed=True, msg=f"confirmation failed: {error.what}")
        return self._finish(Outcome.CONFIRMED, self._state().hosts[self.host].reason or "passed its gate")

    def revert(self, reason: str) -> Step:
        """Bring the host back to the version before, whatever state its activation was left in."""
        before = self._state().hosts[self.host].before
        try:
            report = self._settled_report(before)
            if report.reference == self._release.bundle != before:
                if before is None:
                    return self._finish(
                        Outcome.KEPT, f"{reason}; nothing was served before, so {report.reference} stays"
                    )
                self._run(["revert", "--reason", reason], timeout_s=self._policy.activate_within_s)
                report = self._settled_report(before)
        except (NetworkError, DeviceError) as error:
            return self._finish(Outcome.LOST, f"{reason}; undoing failed, its deadline will: {error.what}")
        if report.reference != before and (report.reference == self._release.bundle or report.reference is None):
            state = f"serves {report.reference or 'nothing'}, not {before or 'nothing'}"
            return self._finish(Outcome.LOST, f"{reason}; after its revert it {state}")
        return self._finish(
            Outcome.REVERTED, f"{reason}; serves {report.reference or 'nothing, as before'}", changed=True
        )

    def _already(self, report: Report) -> Step:
        if report.status == "failing":
            listed = ", ".join(reason.code for reason in report.troubles)
            return self._finish(Outcome.REFUSED, f"serves {report.reference} already, and is failing: {listed}")
        return self._finish(Outcome.ALREADY, f"serves {report.reference}")

    def _settled_report(self, before: str | None) -> Report:
        """A report that names a model, if one was served before: a server that crashed is back within seconds."""
        for _ in range(SERVER_BACK_S):
            report = self._report()
            if report.model is not None or before is None:
                break
            self._clock.sleep(1)
        return report

    def _finish(self, outcome: Outcome, reason: str, *, changed: bool = False) -> Step:
        self._journal.append(events.HostFinished(at=timestamp(), host=self.host, outcome=outcome, reason=reason))
        state = self._state()
        stop = budgets.spent(state.tally(), self._policy.budgets)
        if stop is not None and state.stopped is None:
            self._journal.append(events.Stopped(at=timestamp(), reason=stop))
        return Step(go=False, changed=changed, msg=f"{outcome}: {reason}")

    def _state(self) -> State:
        state = self._journal.state()
        if state is None:
            raise ValueError(f"{self._journal.path} is empty: a plan comes first")
        return state

    def _lack(self, report: Report) -> str | None:
        """What the host has too little of for one more bundle."""
        needed_mb = self._release.size_bytes / 1e6 + DISK_MARGIN_MB
        free_mb = report.board.disk_free_mb
        if self._serves(report) or free_mb is None or free_mb >= needed_mb:
            return None
        return f"{free_mb:.0f} MB free on its disk, {needed_mb:.0f} MB needed"

    def _serves(self, report: Report) -> bool:
        return (
            report.model is not None
            and report.reference == self._release.bundle
            and report.model.sha256 == self._release.sha256
        )

    def _report(self) -> Report:
        return parse_report(self._device(["report", "--json"], timeout_s=60), host=self.host)

    def _run(self, arguments: Sequence[str], *, timeout_s: int = 60) -> dict[str, Any]:
        done = self._device([*arguments, "--json"], timeout_s=timeout_s)
        return parse_answer(done, host=self.host, verb=arguments[0])


def _not_its_turn(state: State, host: str) -> str | None:
    known = state.hosts[host]
    if known.outcome is not None:
        return f"{known.outcome} already in this rollout"
    # A host that was started before this process took over must come to an end, stopped or not.
    stop = state.stopped or budgets.spent(state.tally(), state.plan.policy.budgets)
    if stop is not None and known.started_at is None:
        return f"not started, the rollout has stopped: {stop}"
    return None
