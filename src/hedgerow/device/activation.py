"""Change what a device serves: activate, confirm, revert. Transactional: kill it anywhere.

- The truth is on disk: the server loads ``current`` when it starts, so the rename of that link is the moment of change.
- A version is proven before anything changes: a model is verified byte by byte, loaded beside the one in service, and
  has answered its golden inputs; what the server starts with is tried as far as that goes without it (``restarting``).
  Until then a failure leaves no trace.
- ``transition`` says in which order the steps go and how each cut ends; every command first brings an earlier one that
  was cut off to its end. A server that restarts in between loads ``current``: the old version or the new, never a part.
- A server that is down stops an activation and is no obstacle to a revert: what is reverted may be why it is down.
- One command at a time holds the lock; another waits ``LOCK_WAIT_S``, then says who has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from hedgerow import filelock
from hedgerow.device import events, links
from hedgerow.device.change import RESTARTING, Change, Kind
from hedgerow.device.control import Server
from hedgerow.device.links import CURRENT, PREVIOUS
from hedgerow.device.slots import Slot, Slots
from hedgerow.device.transition import Pending, Recovery, overdue, recovery
from hedgerow.errors import DeviceError, HedgerowError, RefusedError

# Longer than the steps of any other command but the loading of a model, which may take minutes.
LOCK_WAIT_S = 30.0
LOCK = "lock"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Outcome:
    """What a command did: versions of ``name``, None where there is none."""

    name: str
    version: str | None
    previous: str | None
    deadline: datetime | None = None
    note: str | None = None
    changed: bool = False
    load_s: float | None = None
    """Seconds in which the server loaded the version, or started with it, where this command had it do so."""
    kind: Kind = "model"

    @property
    def change(self) -> Change | None:
        """What is active now."""
        return None if self.version is None else Change(self.kind, self.name, self.version)

    @property
    def change_before(self) -> Change | None:
        """What a revert returns to."""
        return None if self.previous is None else Change(self.kind, self.name, self.previous)


@dataclass(frozen=True)
class Clock:
    """The times that a deadline is held against; tests bring their own."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    boottime_s: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    boot_id: Callable[[], str] = lambda: _BOOT_ID.read_text(encoding="ascii").strip()


class Activation:
    """Commands over one device's models, and over what ``others`` brings. ``server`` is told, the disk decides."""

    def __init__(
        self,
        models_dir: Path,
        state_dir: Path,
        server: Server,
        *,
        others: tuple[Slot, ...] = (),
        clock: Clock | None = None,
    ) -> None:
        self._slots = Slots(models_dir, server, others)
        self._state_dir = state_dir
        self._clock = clock or Clock()

    def check_free(self, change: Change) -> None:
        """Look, without waiting, whether ``activate`` would be refused: what is worth knowing before a download.

        Raises:
            RefusedError: another activation is pending.
        """
        pending = links.read_pending(self._state_dir)
        if pending is not None and recovery(pending, _current(self._slot(pending.change))) is Recovery.FINISH:
            self._refuse_other(pending, change)

    def activate(self, change: Change, *, confirm_within_s: int) -> Outcome:
        """Serve a version that is on this device; nothing changes if it is served already.

        Raises:
            RefusedError: another activation is pending, or there would be no way back.
            UsageError, PublisherError: it is not on this device, or a file is not what the manifest says.
            DeviceError: the server is down, a golden input is answered wrongly, or the server does not serve with it;
                the old version stays in service.
        """
        with self._locked():
            slot, version = self._slot(change), change.version
            pending = links.read_pending(self._state_dir)
            self._refuse_other(pending, change)
            current, previous = _current(slot), links.target(slot.home, PREVIOUS)
            if current == version:
                slot.serve(version)
                deadline = None if pending is None else pending.deadline
                return _outcome(slot, version, previous, deadline, note="it serves already")
            load_s = slot.prove(version, current)
            pending = self._pending(slot, current, version, previous, within_s=confirm_within_s)
            try:
                links.write_pending(self._state_dir, pending)
                _point(slot, CURRENT, version)
                restart_s = slot.switch(version)
                _point(slot, PREVIOUS, current)
            except BaseException as error:
                self._undo(slot, pending, error)
                raise
            until = f"from {current or 'nothing'}, to be confirmed by {pending.deadline:%Y-%m-%d %H:%M:%S} UTC"
            self._log("activated", pending.reference, until)
            load_s = load_s if restart_s is None else restart_s
            return _outcome(slot, version, current, pending.deadline, changed=True, load_s=load_s)

    def confirm(self, change: Change) -> Outcome:
        """End the deadline.

        Raises:
            RefusedError: another version is active.
        """
        with self._locked():
            slot = self._slot(change)
            current, previous = _current(slot), links.target(slot.home, PREVIOUS)
            if current != change.version:
                raise RefusedError(
                    f"{change} cannot be confirmed: {current or 'nothing'} is active",
                    where=str(slot.home),
                    next_step=f"see why in {self._state_dir / events.FILE_NAME}, or: hedgerow-device report",
                )
            pending = links.read_pending(self._state_dir)
            if pending is None or (pending.kind, pending.name) != (change.kind, change.name):
                return _outcome(slot, current, previous, note="it was confirmed already")
            slot.settle(change.version)
            links.remove_pending(self._state_dir)
            self._log("confirmed", str(change), None)
            return _outcome(slot, current, previous, changed=True)

    def revert(self, name: str, *, reason: str, kind: Kind | None = None) -> Outcome:
        """Go back to the version before: of the pending activation, else of model ``name``, or of another ``kind``.

        ``name`` is the application's, where ``kind`` is one.

        Raises:
            RefusedError: there is no version to go back to, or an activation of something else is pending.
            DeviceError: the version before cannot be served.
        """
        with self._locked():
            pending = links.read_pending(self._state_dir)
            if pending is None:
                slot = self._slots.of(kind or "model", str(kind) if kind in RESTARTING else name)
                current, back = _current(slot), links.target(slot.home, PREVIOUS)
                if current is None or back is None:
                    raise _nothing_before(slot)
                # What is left behind is not what a second revert should return to.
                return self._go_back(slot, self._pending(slot, back, current, None, within_s=0), reason)
            slot = self._slot(pending.change)
            if kind is not None and (kind != pending.kind or (kind == "application" and name != pending.name)):
                asked = f"{kind} {name}" if kind == pending.kind else kind
                raise RefusedError(
                    f"{pending.reference} waits to be confirmed, which is no {asked}: one at a time",
                    where=str(self._state_dir / links.PENDING),
                    next_step=f"hedgerow-device confirm {pending.reference}, or hedgerow-device revert",
                )
            if pending.from_ is None and slot.keeps_first:
                raise _nothing_before(slot)
            return self._go_back(slot, pending, reason)

    def give_up(self, change: Change, *, reason: str) -> Outcome:
        """Go back from a version that its own device finds failing, if it still waits for its confirmation.

        What was confirmed or reverted meanwhile stays: whoever held the lock first has decided. A first activation
        stays, too, as in ``revert_if_overdue``.

        Raises:
            DeviceError: the version before cannot be served.
        """
        with self._locked():
            slot, pending = self._slot(change), links.read_pending(self._state_dir)
            first = pending is not None and pending.from_ is None and slot.keeps_first
            if pending is None or pending.change != change or first:
                note = "there is no version before" if pending else f"{change} no longer waits to be confirmed"
                return _outcome(slot, _current(slot), links.target(slot.home, PREVIOUS), note=note)
            return self._go_back(slot, pending, reason)

    def revert_if_overdue(self, name: str) -> Outcome:
        """Go back where nobody confirmed in time. A first activation is kept, where its slot ``keeps_first``.

        Raises:
            DeviceError: the version before cannot be served.
        """
        with self._locked():
            pending = links.read_pending(self._state_dir)
            slot = self._slots.of("model", name) if pending is None else self._slot(pending.change)
            if pending is None or not self._overdue(pending):
                deadline = None if pending is None else pending.deadline
                previous = links.target(slot.home, PREVIOUS)
                return _outcome(slot, _current(slot), previous, deadline, note="no deadline has passed")
            if pending.from_ is None and slot.keeps_first:
                links.remove_pending(self._state_dir)
                note = "nobody confirmed it in time; kept, because there is no version before"
                self._log("kept", pending.reference, note)
                return _outcome(slot, pending.to, None, note=note, changed=True)
            return self._go_back(slot, pending, f"nobody confirmed by {pending.deadline:%Y-%m-%d %H:%M:%S} UTC")

    def _go_back(self, slot: Slot, pending: Pending, reason: str) -> Outcome:
        if pending.from_ is not None:
            slot.ready(pending.from_)
        links.write_pending(self._state_dir, msgspec.structs.replace(pending, reverting=reason))
        return self._finish_revert(slot, pending, reason)

    def _finish_revert(self, slot: Slot, pending: Pending, reason: str) -> Outcome:
        """The steps of a revert after its pending file says so; also for one that was cut off."""
        back = pending.from_
        _point(slot, CURRENT, back)
        if back is not None:
            try:
                slot.serve(back)
            except DeviceError as error:
                reason += f"; the server will load it when it starts ({error.what})"
            slot.settle(back)
        _point(slot, PREVIOUS, pending.previous)
        links.remove_pending(self._state_dir)
        self._log("reverted", pending.reference, f"to {back or 'nothing'}: {reason}")
        return _outcome(slot, back, pending.previous, note=reason, changed=True)

    def _undo(self, slot: Slot, pending: Pending, error: BaseException) -> None:
        """After a failure among the steps of an activation: everything as it was, the server too if it answers."""
        if slot.restarts:
            # The server may run the new version by now: cut off here, it has to come to its end, as a revert does.
            reason = f"its activation failed: {error.what if isinstance(error, HedgerowError) else error!r}"
            reverting = msgspec.structs.replace(pending, reverting=reason)
            with suppress(OSError):
                links.write_pending(self._state_dir, reverting)
            self._finish_revert(slot, reverting, reason)
            return
        _point(slot, CURRENT, pending.from_)
        _point(slot, PREVIOUS, pending.previous)
        links.remove_pending(self._state_dir)
        slot.forget(pending.to, pending.from_)

    def _recover(self) -> None:
        """Bring a command that was cut off to its end."""
        pending = links.read_pending(self._state_dir)
        if pending is None:
            return
        slot = self._slot(pending.change)
        match recovery(pending, _current(slot)):
            case Recovery.FORGET:
                links.remove_pending(self._state_dir)
                self._log("forgotten", pending.reference, "the activation was cut off before it took effect")
                slot.forget(pending.to, pending.from_)
            case Recovery.REVERT:
                self._finish_revert(slot, pending, pending.reverting or "")
            case Recovery.FINISH:
                with suppress(DeviceError):  # the deadline runs, so a version that does not load will go
                    slot.finish(pending.to)
                _point(slot, PREVIOUS, pending.from_)

    def _slot(self, change: Change) -> Slot:
        return self._slots.of(change.kind, change.name)

    def _pending(self, slot: Slot, from_: str | None, to: str, previous: str | None, *, within_s: int) -> Pending:
        now = self._clock.now()
        return Pending(
            kind=slot.kind,
            name=slot.name,
            from_=from_,
            to=to,
            since=now,
            deadline=now + timedelta(seconds=within_s),
            boot_id=self._clock.boot_id(),
            deadline_boottime_s=self._clock.boottime_s() + within_s,
            previous=previous,
        )

    def _refuse_other(self, pending: Pending | None, change: Change) -> None:
        if pending is not None and pending.change != change:
            raise RefusedError(
                f"{pending.reference} waits to be confirmed until {pending.deadline:%H:%M:%S} UTC: one at a time",
                where=str(self._state_dir / links.PENDING),
                next_step=f"hedgerow-device confirm {pending.reference}, or hedgerow-device revert",
            )

    def _overdue(self, pending: Pending) -> bool:
        clock = self._clock
        return overdue(pending, now=clock.now(), boottime_s=clock.boottime_s(), boot_id=clock.boot_id())

    def _log(self, event: str, model: str, reason: str | None) -> None:
        with suppress(OSError):  # a full disk keeps a line from the log, and must not undo what it tells of
            events.append(self._state_dir, events.Event(self._clock.now(), event, model, reason))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._state_dir.mkdir(parents=True, exist_ok=True)
            with filelock.exclusive(
                self._state_dir / LOCK, wait_s=LOCK_WAIT_S, work="changing what this device serves"
            ):
                links.sweep(self._slots.homes(), self._state_dir)
                self._recover()
                yield
        except OSError as error:
            raise DeviceError(
                f"the disk does not take a change: {error.strerror or error}",
                where=str(error.filename or self._state_dir),
                next_step="see df and dmesg; what was served before still is, and the same command tries again",
            ) from error


def _current(slot: Slot) -> str | None:
    return links.target(slot.home, CURRENT)


def _point(slot: Slot, link: str, version: str | None) -> None:
    if links.target(slot.home, link) != version:
        slot.point(link, version)


def _outcome(
    slot: Slot,
    version: str | None,
    previous: str | None,
    deadline: datetime | None = None,
    *,
    note: str | None = None,
    changed: bool = False,
    load_s: float | None = None,
) -> Outcome:
    return Outcome(slot.name, version, previous, deadline, note, changed, load_s, slot.kind)


def _nothing_before(slot: Slot) -> RefusedError:
    example = Change(slot.kind, slot.name, "VERSION")
    return RefusedError(
        f"there is no version of {slot.name} to go back to",
        where=str(slot.home),
        next_step=f"activate one: hedgerow-device activate {example}",
    )
