"""Getting the release onto a host: ahead of all turns, or in its own. Nothing changes in serving.

- Devices fetch only while the policy's download windows are open and no freeze
  stands. In its turn a host that has something to fetch and may not is passed
  over: its turn comes again when the rollout is gone on with.
- What was staged before is verified on the device, byte by byte, and not fetched
  again; no registry is asked. If it is not whole, it is as if it had not been staged.
- A host that cannot be staged ahead has nothing said against it: its turn tries
  again, and says then what is the matter.
"""

from __future__ import annotations

from typing import Any, Protocol

from hedgerow.errors import DeviceError, NetworkError
from hedgerow.rollout import decide, events
from hedgerow.rollout.decide import Finish, Go
from hedgerow.rollout.events import Outcome
from hedgerow.rollout.hostline import Clock, Device
from hedgerow.rollout.journal import Journal, timestamp
from hedgerow.rollout.returns import HostReturns, Step


class Deliver(Protocol):
    """Brings a runtime or a configuration to the host, beside what is in service."""

    def __call__(self, change: str, *, timeout_s: int) -> dict[str, Any]:
        """Have ``change`` (``runtime:VERSION``) there, proven; an answer like ``hedgerow-device stage``'s.

        Raises:
            NetworkError: The host could not be reached, or the line broke.
            DeviceError: It is not what was planned, or does not stand its proof.
        """


class HostStaging(HostReturns):
    """The steps that fetch."""

    def __init__(
        self,
        host: str,
        journal: Journal,
        device: Device,
        clock: Clock | None = None,
        deliver: Deliver | None = None,
    ) -> None:
        super().__init__(host, journal, device, clock)
        self._deliver = deliver

    def stage(self) -> Step:
        """In the host's turn, have the device fetch and verify the whole release."""
        state = self._journal.read()
        known = state.hosts[self.host]
        if known.started_at is not None:
            return Step(msg="staged before the run was cut off")
        if known.staged_s is not None and self._is_there():
            return Step(msg="it was staged ahead; every byte of it is there")
        wait = decide.may_fetch(state, self._clock.now())
        if wait is not None:
            return self._finish(Outcome.SKIPPED, f"{wait.code}: {wait.reason}")
        try:
            return self._fetch()
        except DeviceError as error:
            return self._finish(Outcome.REFUSED, f"staging failed: {error.what}")
        except NetworkError as error:
            return self._source_gone(error.what)

    def stage_ahead(self) -> Step:
        """Before any turn, the same; where it may not be or does not come off, the host is left as it is."""
        state = self._journal.read()
        match decide.may_stage_ahead(state, [self.host], self._clock.now()):
            case Go():
                pass
            case Finish():
                return Step(go=False, msg="has it already")
            case decision:
                return Step(go=False, msg=f"not staged now: {decision.reason}")
        try:
            return self._fetch()
        except (NetworkError, DeviceError) as error:
            return Step(go=False, msg=f"not staged ahead, its turn tries again: {error.what}")

    def _is_there(self) -> bool:
        """Whether a device that has fetched the release still has all of it; asks no registry."""
        try:
            self._line.run(["stage", self._wanted, *self._which, "--here"], timeout_s=self._policy.activate_within_s)
        except (NetworkError, DeviceError):
            return False
        return True

    def _fetch(self) -> Step:
        started = self._clock.monotonic()
        within_s = self._policy.activate_within_s
        if self._release.kind in {"model", "application"}:
            answer = self._line.run(["stage", self._wanted, *self._which], timeout_s=within_s)
        elif self._deliver is not None:
            deliver = self._deliver
            answer = self._line.repeat(lambda: deliver(self._wanted, timeout_s=within_s))
        else:
            raise DeviceError(f"nobody brings {self._wanted} to this host", next_step="playbooks/rollout.yml does")
        seconds = round(self._clock.monotonic() - started, 3)
        new_bytes = answer.get("new_bytes")
        self._record(events.HostStaged, seconds=seconds, new_bytes=new_bytes if isinstance(new_bytes, int) else None)
        return Step(changed=bool(answer.get("changed")), msg=f"staged in {seconds:.1f} s")

    def _source_gone(self, what: str) -> Step:
        tries = self._policy.retry.attempts
        step = self._finish(Outcome.SKIPPED, f"staging failed in {tries} tries: {what}")
        if decide.stopped(self._journal.read()) is None:
            reason = f"{self.host} could not get the release in {tries} tries: {what}"
            self._journal.record(events.Stopped(at=timestamp(), reason=reason))
        return step
