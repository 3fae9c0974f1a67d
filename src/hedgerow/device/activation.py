"""Change what a device serves: activate, confirm, revert. Transactional: kill it anywhere.

The truth is on disk: the server loads ``current`` when it starts, so the rename of that link is the moment of change.

Order of an activation, and what a cut after each step leaves:

1. verify the files, load beside, answer golden inputs: nothing has changed.
2. write ``pending.json``: ``current`` still is the old version; the next command removes the file.
3. point ``previous`` at the old version, then ``current`` at the new: a restart serves the new; the deadline runs.
4. have the server switch: as 3, without the restart.

Recovery, done first by every command: a pending activation whose ``to`` is not ``current`` never happened, and is
forgotten, and the server told to serve ``current`` if it does not. A revert goes the same way back: ``current`` is
pointed at the old version, the server switches, ``pending.json`` goes last. A server that is down is no obstacle to a
revert: it loads ``current`` when it starts.

One command at a time holds the lock; another waits ``LOCK_WAIT_S``, then says who has it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hedgerow.device import events, links
from hedgerow.device.control import Server, ServerDownError
from hedgerow.device.links import CURRENT, PREVIOUS, Pending
from hedgerow.errors import DeviceError, RefusedError
from hedgerow.registry import bundle as bundles
from hedgerow.registry.reference import Reference

LOCK_WAIT_S = 30.0
_LOCK_POLL_S = 0.1
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


@dataclass(frozen=True)
class Clock:
    """The times that a deadline is held against; tests bring their own."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    boottime_s: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    boot_id: Callable[[], str] = lambda: _BOOT_ID.read_text(encoding="ascii").strip()


def overdue(pending: Pending, *, now: datetime, boottime_s: float, boot_id: str) -> bool:
    """Whether nobody confirmed in time. Within one boot the clock since boot decides: it cannot be set."""
    if pending.boot_id == boot_id:
        return boottime_s >= pending.deadline_boottime_s
    return now >= pending.deadline


class Activation:
    """Commands over one device's models. ``server`` is told, the disk decides."""

    def __init__(self, models_dir: Path, state_dir: Path, server: Server, *, clock: Clock | None = None) -> None:
        self._models_dir = models_dir
        self._state_dir = state_dir
        self._server = server
        self._clock = clock or Clock()

    def activate(self, reference: Reference, *, confirm_within_s: int) -> Outcome:
        """Serve a version that is on this device; nothing changes if it is served already.

        Raises:
            RefusedError: another activation is pending.
            PublisherError: a file is not what the manifest says.
            DeviceError: the server is down, or a golden input is answered wrongly; the old version stays in service.
        """
        with self._locked():
            self._recover()
            name, version = reference.name, reference.version
            home = self._models_dir / name
            current = links.target(home, CURRENT)
            pending = links.read_pending(self._state_dir)
            if pending is not None and (pending.name, pending.to) != (name, version):
                raise RefusedError(
                    f"{pending.name}@{pending.to} waits to be confirmed until {pending.deadline:%H:%M:%S} UTC",
                    where=str(self._state_dir / links.PENDING),
                    next_step=f"hedgerow-device confirm {pending.name}@{pending.to}, or hedgerow-device revert",
                )
            if current == version:
                self._serve(name, version)
                deadline = None if pending is None else pending.deadline
                return Outcome(
                    name, version, links.target(home, PREVIOUS), deadline, note="it serves already", changed=False
                )
            bundles.verify_files(home / version)
            self._server.prepare(name, version)
            previous = links.target(home, PREVIOUS)
            try:
                deadline = self._switch(name, current, version, confirm_within_s)
            except BaseException:
                self._undo(name, current, previous)
                raise
            self._log(
                "activated", f"{name}@{version}", f"from {current or 'nothing'}, confirm by {deadline:%H:%M:%S} UTC"
            )
            return Outcome(name, version, current, deadline, changed=True)

    def confirm(self, reference: Reference) -> Outcome:
        """End the deadline.

        Raises:
            RefusedError: another version serves.
        """
        with self._locked():
            self._recover()
            home = self._models_dir / reference.name
            current, previous = links.target(home, CURRENT), links.target(home, PREVIOUS)
            if current != reference.version:
                raise RefusedError(
                    f"{reference} cannot be confirmed: {current or 'nothing'} is active",
                    where=str(home),
                    next_step="hedgerow-device report shows why; events are in events.jsonl",
                )
            if links.read_pending(self._state_dir) is None:
                return Outcome(reference.name, current, previous, note="it was confirmed already", changed=False)
            links.remove_pending(self._state_dir)
            self._log("confirmed", str(reference), None)
            return Outcome(reference.name, current, previous, changed=True)

    def revert(self, name: str, *, reason: str, if_overdue: bool = False) -> Outcome:
        """Go back to the version before; with ``if_overdue`` only where nobody confirmed in time.

        Raises:
            RefusedError: there is no version to go back to.
            DeviceError: the version before cannot be served.
        """
        with self._locked():
            self._recover()
            pending = links.read_pending(self._state_dir)
            if pending is not None:
                name = pending.name
            home = self._models_dir / name
            current = links.target(home, CURRENT)
            if if_overdue:
                if pending is None or not self._overdue(pending):
                    return Outcome(
                        name, current, links.target(home, PREVIOUS), note="no deadline has passed", changed=False
                    )
                reason = f"nobody confirmed by {pending.deadline:%Y-%m-%d %H:%M:%S} UTC"
            back = pending.from_ if pending is not None else links.target(home, PREVIOUS)
            if back is None:
                return self._nothing_before(name, current, pending, if_overdue=if_overdue)
            try:
                self._server.prepare(name, back)
                links.point(home, CURRENT, back)
                self._server.switch(name, back)
            except ServerDownError:
                # The version that is left may be what brings the server down: the disk must go back all the same.
                links.point(home, CURRENT, back)
                reason += "; the server is down and will load it when it starts"
            # What was left is not what a second revert should return to.
            links.point(home, PREVIOUS, None)
            links.remove_pending(self._state_dir)
            self._log("reverted", f"{name}@{back}", reason)
            return Outcome(name, back, None, note=reason, changed=True)

    def _switch(self, name: str, current: str | None, version: str, confirm_within_s: int) -> datetime:
        home = self._models_dir / name
        now = self._clock.now()
        pending = Pending(
            name=name,
            from_=current,
            to=version,
            since=now,
            deadline=now + timedelta(seconds=confirm_within_s),
            boot_id=self._clock.boot_id(),
            deadline_boottime_s=self._clock.boottime_s() + confirm_within_s,
        )
        links.write_pending(self._state_dir, pending)
        links.point(home, PREVIOUS, current)
        links.point(home, CURRENT, version)
        self._server.switch(name, version)
        return pending.deadline

    def _undo(self, name: str, current: str | None, previous: str | None) -> None:
        """After a failure between 2 and 4: everything as it was, and the server with it if it answers."""
        home = self._models_dir / name
        links.point(home, CURRENT, current)
        links.point(home, PREVIOUS, previous)
        links.remove_pending(self._state_dir)
        with suppress(DeviceError):
            if current is not None:
                self._serve(name, current)

    def _nothing_before(self, name: str, current: str | None, pending: Pending | None, *, if_overdue: bool) -> Outcome:
        """A first activation has nothing to return to: an unconfirmed model serves better than none."""
        if if_overdue and pending is not None:
            links.remove_pending(self._state_dir)
            self._log("kept", f"{name}@{current}", "nobody confirmed it in time, and there is no version before")
            return Outcome(name, current, None, note="kept: there is no version before", changed=True)
        raise RefusedError(
            f"there is no version of {name} to go back to",
            where=str(self._models_dir / name),
            next_step=f"activate one: hedgerow-device activate {name}@VERSION",
        )

    def _recover(self) -> None:
        """Bring a command that was cut off to an end (see the module's text)."""
        pending = links.read_pending(self._state_dir)
        if pending is None:
            return
        if links.target(self._models_dir / pending.name, CURRENT) != pending.to:
            links.remove_pending(self._state_dir)
            self._log(
                "forgotten",
                f"{pending.name}@{pending.to}",
                "it was cut off before it took effect, or while it was reverted",
            )
            current = links.target(self._models_dir / pending.name, CURRENT)
            if current is not None:
                with suppress(ServerDownError):
                    self._serve(pending.name, current)

    def _serve(self, name: str, version: str) -> None:
        """Have the server serve what ``current`` says, if a cut kept it from hearing of it."""
        if self._server.serving() != version:
            self._server.prepare(name, version)
            self._server.switch(name, version)

    def _overdue(self, pending: Pending) -> bool:
        clock = self._clock
        return overdue(pending, now=clock.now(), boottime_s=clock.boottime_s(), boot_id=clock.boot_id())

    def _log(self, event: str, model: str, reason: str | None) -> None:
        events.append(self._state_dir, events.Event(self._clock.now(), event, model, reason))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._state_dir.mkdir(parents=True, exist_ok=True)
        path = self._state_dir / "lock"
        with path.open("a+", encoding="utf-8") as file:
            deadline = time.monotonic() + LOCK_WAIT_S
            while not _try_lock(file.fileno()):
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise DeviceError(
                        f"another hedgerow-device is at work: process {file.read().strip() or 'unknown'}",
                        where=str(path),
                        next_step="wait until it has finished, then run the command again",
                    )
                time.sleep(_LOCK_POLL_S)
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
