"""Change what a device serves: activate, confirm, revert. Transactional: kill it anywhere.

- The truth is on disk: the server loads ``current`` when it starts, so the rename of that link is the moment of change.
- A version is verified byte by byte, loaded beside the one in service and has answered its golden inputs before
  anything changes. Until then a failure leaves no trace.
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
from hedgerow.device.control import Server, ServerDownError
from hedgerow.device.links import CURRENT, PREVIOUS
from hedgerow.device.transition import Pending, Recovery, overdue, recovery
from hedgerow.errors import DeviceError, RefusedError
from hedgerow.registry import bundle as bundles
from hedgerow.registry.reference import Reference

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
    """Seconds in which the server loaded the version, where this command had it do so."""


@dataclass(frozen=True)
class Clock:
    """The times that a deadline is held against; tests bring their own."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    boottime_s: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    boot_id: Callable[[], str] = lambda: _BOOT_ID.read_text(encoding="ascii").strip()


class Activation:
    """Commands over one device's models. ``server`` is told, the disk decides."""

    def __init__(self, models_dir: Path, state_dir: Path, server: Server, *, clock: Clock | None = None) -> None:
        self._models_dir = models_dir
        self._state_dir = state_dir
        self._server = server
        self._clock = clock or Clock()

    def check_free(self, reference: Reference) -> None:
        """Look, without waiting, whether ``activate`` would be refused: what is worth knowing before a download.

        Raises:
            RefusedError: another activation is pending.
        """
        pending = links.read_pending(self._state_dir)
        if recovery(pending, self._current(pending.name if pending else "")) is Recovery.FINISH:
            self._refuse_other(pending, reference)

    def activate(self, reference: Reference, *, confirm_within_s: int) -> Outcome:
        """Serve a version that is on this device; nothing changes if it is served already.

        Raises:
            RefusedError: another activation is pending.
            UsageError, PublisherError: it is not on this device, or a file is not what the manifest says.
            DeviceError: the server is down, or a golden input is answered wrongly; the old version stays in service.
        """
        with self._locked():
            name, version = reference.name, reference.version
            home = self._models_dir / name
            pending = links.read_pending(self._state_dir)
            self._refuse_other(pending, reference)
            current, previous = self._current(name), links.target(home, PREVIOUS)
            if current == version:
                self._serve(name, version)
                deadline = None if pending is None else pending.deadline
                return Outcome(name, version, previous, deadline, note="it serves already")
            bundles.verify_files(home / version)
            load_s = self._server.prepare(name, version).get("load_s")
            pending = self._pending(name, current, version, previous, within_s=confirm_within_s)
            try:
                links.write_pending(self._state_dir, pending)
                self._point(name, CURRENT, version)
                self._server.switch(name, version)
                self._point(name, PREVIOUS, current)
            except BaseException:
                self._undo(pending)
                raise
            until = f"from {current or 'nothing'}, to be confirmed by {pending.deadline:%Y-%m-%d %H:%M:%S} UTC"
            self._log("activated", pending.reference, until)
            return Outcome(name, version, current, pending.deadline, changed=True, load_s=load_s)

    def confirm(self, reference: Reference) -> Outcome:
        """End the deadline.

        Raises:
            RefusedError: another version is active.
        """
        with self._locked():
            home = self._models_dir / reference.name
            current, previous = self._current(reference.name), links.target(home, PREVIOUS)
            if current != reference.version:
                raise RefusedError(
                    f"{reference} cannot be confirmed: {current or 'nothing'} is active",
                    where=str(home),
                    next_step=f"see why in {self._state_dir / events.FILE_NAME}, or: hedgerow-device report",
                )
            pending = links.read_pending(self._state_dir)
            if pending is None or pending.name != reference.name:
                return Outcome(reference.name, current, previous, note="it was confirmed already")
            links.remove_pending(self._state_dir)
            self._log("confirmed", str(reference), None)
            return Outcome(reference.name, current, previous, changed=True)

    def revert(self, name: str, *, reason: str) -> Outcome:
        """Go back to the version before: of the pending activation, else of ``name``.

        Raises:
            RefusedError: there is no version to go back to.
            DeviceError: the version before cannot be served.
        """
        with self._locked():
            pending = links.read_pending(self._state_dir)
            if pending is None:
                current, back = self._current(name), links.target(self._models_dir / name, PREVIOUS)
                if current is None or back is None:
                    raise _nothing_before(self._models_dir / name, name)
                # What is left behind is not what a second revert should return to.
                pending = self._pending(name, back, current, None, within_s=0)
            elif pending.from_ is None:
                raise _nothing_before(self._models_dir / pending.name, pending.name)
            return self._go_back(pending, reason)

    def give_up(self, reference: Reference, *, reason: str) -> Outcome:
        """Go back from a version that its own device finds failing, if it still waits for its confirmation.

        What was confirmed or reverted meanwhile stays: whoever held the lock first has decided. A first activation
        stays, too, as in ``revert_if_overdue``.

        Raises:
            DeviceError: the version before cannot be served.
        """
        with self._locked():
            name, pending = reference.name, links.read_pending(self._state_dir)
            if pending is None or pending.reference != str(reference) or pending.from_ is None:
                note = "there is no version before" if pending else f"{reference} no longer waits to be confirmed"
                previous = links.target(self._models_dir / name, PREVIOUS)
                return Outcome(name, self._current(name), previous, note=note)
            return self._go_back(pending, reason)

    def revert_if_overdue(self, name: str) -> Outcome:
        """Go back where nobody confirmed in time. A first activation is kept: unconfirmed serves better than nothing.

        Raises:
            DeviceError: the version before cannot be served.
        """
        with self._locked():
            pending = links.read_pending(self._state_dir)
            if pending is None or not self._overdue(pending):
                name = name if pending is None else pending.name
                previous = links.target(self._models_dir / name, PREVIOUS)
                deadline = None if pending is None else pending.deadline
                return Outcome(name, self._current(name), previous, deadline, note="no deadline has passed")
            if pending.from_ is None:
                links.remove_pending(self._state_dir)
                note = "nobody confirmed it in time; kept, because there is no version before"
                self._log("kept", pending.reference, note)
                return Outcome(pending.name, pending.to, None, note=note, changed=True)
            return self._go_back(pending, f"nobody confirmed by {pending.deadline:%Y-%m-%d %H:%M:%S} UTC")

    def _go_back(self, pending: Pending, reason: str) -> Outcome:
        name, back = pending.name, pending.from_
        if back is not None:
            with suppress(ServerDownError):
                self._prepare(name, back)
        links.write_pending(self._state_dir, msgspec.structs.replace(pending, reverting=reason))
        return self._finish_revert(pending, reason)

    def _finish_revert(self, pending: Pending, reason: str) -> Outcome:
        """The steps of a revert after its pending file says so; also for one that was cut off."""
        name, back = pending.name, pending.from_
        self._point(name, CURRENT, back)
        if back is not None:
            try:
                self._serve(name, back)
            except DeviceError as error:
                reason += f"; the server will load it when it starts ({error.what})"
        self._point(name, PREVIOUS, pending.previous)
        links.remove_pending(self._state_dir)
        self._log("reverted", pending.reference, f"to {back or 'nothing'}: {reason}")
        return Outcome(name, back, pending.previous, note=reason, changed=True)

    def _undo(self, pending: Pending) -> None:
        """After a failure among the steps of an activation: everything as it was, the server too if it answers."""
        self._point(pending.name, CURRENT, pending.from_)
        self._point(pending.name, PREVIOUS, pending.previous)
        links.remove_pending(self._state_dir)
        self._forget_prepared(pending)

    def _recover(self) -> None:
        """Bring a command that was cut off to its end."""
        pending = links.read_pending(self._state_dir)
        todo = recovery(pending, self._current(pending.name if pending else ""))
        if pending is None or todo is Recovery.NOTHING:
            return
        if todo is Recovery.FORGET:
            links.remove_pending(self._state_dir)
            self._log("forgotten", pending.reference, "the activation was cut off before it took effect")
            self._forget_prepared(pending)
        elif todo is Recovery.REVERT:
            self._finish_revert(pending, pending.reverting or "")
        else:
            with suppress(DeviceError):  # the deadline runs, so a version that does not load will go
                self._serve(pending.name, pending.to)
            self._point(pending.name, PREVIOUS, pending.from_)

    def _serve(self, name: str, version: str) -> None:
        """Have the server serve what ``current`` says, unless it does."""
        self._prepare(name, version)
        self._server.switch(name, version)

    def _prepare(self, name: str, version: str) -> None:
        """Have the server load a version, unless that or nothing else is loaded."""
        status, wanted = self._server.status(), Reference(name, version)
        if status.serving != wanted:
            if status.prepared != wanted:
                self._server.prepare(name, version)
        elif status.prepared is not None:
            self._server.discard(name, status.prepared.version)

    def _forget_prepared(self, pending: Pending) -> None:
        with suppress(DeviceError):
            if pending.from_ is None:
                self._server.discard(pending.name, pending.to)
            else:
                self._serve(pending.name, pending.from_)

    def _pending(self, name: str, from_: str | None, to: str, previous: str | None, *, within_s: int) -> Pending:
        now = self._clock.now()
        return Pending(
            name=name,
            from_=from_,
            to=to,
            since=now,
            deadline=now + timedelta(seconds=within_s),
            boot_id=self._clock.boot_id(),
            deadline_boottime_s=self._clock.boottime_s() + within_s,
            previous=previous,
        )

    def _refuse_other(self, pending: Pending | None, reference: Reference) -> None:
        if pending is not None and pending.reference != str(reference):
            raise RefusedError(
                f"{pending.reference} waits to be confirmed until {pending.deadline:%H:%M:%S} UTC: one at a time",
                where=str(self._state_dir / links.PENDING),
                next_step=f"hedgerow-device confirm {pending.reference}, or hedgerow-device revert",
            )

    def _current(self, name: str) -> str | None:
        return links.target(self._models_dir / name, CURRENT)

    def _point(self, name: str, link: str, version: str | None) -> None:
        home = self._models_dir / name
        if links.target(home, link) != version:
            links.point(home, link, version)

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
                links.sweep(self._models_dir, self._state_dir)
                self._recover()
                yield
        except OSError as error:
            raise DeviceError(
                f"the disk does not take a change: {error.strerror or error}",
                where=str(error.filename or self._state_dir),
                next_step="see df and dmesg; what was served before still is, and the same command tries again",
            ) from error


def _nothing_before(home: Path, name: str) -> RefusedError:
    return RefusedError(
        f"there is no version of {name} to go back to",
        where=str(home),
        next_step=f"activate one: hedgerow-device activate {name}@VERSION",
    )
