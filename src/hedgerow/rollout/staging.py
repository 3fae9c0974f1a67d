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

from hedgerow.errors import DeviceError, NetworkError
from hedgerow.rollout import decide, events
from hedgerow.rollout.decide import Finish, Go
from hedgerow.rollout.events import Outcome
from hedgerow.rollout.journal import timestamp
from hedgerow.rollout.returns import HostReturns, Step


class HostStaging(HostReturns):
    """The steps that fetch."""

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
        if decide.drains(self._release.kind):
            return False  # what is no model is not fetched from the registry, so that nothing is saved
        try:
            self._line.run(["stage", self._release.bundle, "--here"], timeout_s=self._policy.activate_within_s)
        except (NetworkError, DeviceError):
            return False
        return True

    def _fetch(self) -> Step:
        started = self._clock.monotonic()
        answer = self._line.run(["stage", self._release.bundle], timeout_s=self._policy.activate_within_s)
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
