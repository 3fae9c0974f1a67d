"""The journal of one rollout: JSON lines, appended and never changed.

- An append is on the disk when it returns (``fsync``), under a file lock, so
  that lines of a wave's workers never mix.
- Only the holder of the fleet's lease appends.
- A last line without its newline was cut off before its append returned:
  nobody acted on it. Readers pass it over; the next append removes it.
- Any other line that cannot be read is damage, and is said with its number.
"""

from __future__ import annotations

import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from hedgerow import atomic
from hedgerow.errors import HedgerowError, RefusedError
from hedgerow.rollout import decide, lease
from hedgerow.rollout.events import Event, State, replay

FILE = "journal.jsonl"

_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def timestamp(now: datetime | None = None) -> str:
    """``now`` (the present if None) as RFC 3339 in UTC, to the millisecond."""
    moment = datetime.now(UTC) if now is None else now.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JournalError(HedgerowError):
    """A journal that cannot be trusted."""


class Journal:
    """The journal in folder ``rollouts/<id>``. ``pid`` becomes ``writer``."""

    def __init__(self, folder: Path, *, pid: int | None = None) -> None:
        self.folder = folder
        self.path = folder / FILE
        self.writer = os.getpid() if pid is None else pid
        """The process whose lease covers appends."""
        self._forget()

    @classmethod
    def shared(cls, folder: Path, *, pid: int | None = None) -> Journal:
        """This process's one journal in ``folder``, with what it has read so far; forked processes inherit it.

        Appends go on under the lease of ``pid``.
        """
        journal = _SHARED.setdefault(folder, cls(folder))
        journal.writer = os.getpid() if pid is None else pid
        return journal

    def _forget(self) -> None:
        self._state: State | None = None
        self._inode: int | None = None
        self._read_bytes = self._read_lines = 0

    def append(self, event: Event) -> None:
        """Write one event; it is on the disk when this returns.

        Raises:
            RefusedError: This process does not hold the lease.
        """
        holder = lease.read(self.folder.parent)
        if holder is None or (holder.pid, holder.rollout) != (self.writer, self.folder.name):
            by = "nobody" if holder is None else f"{holder.by} (process {holder.pid}, rollout {holder.rollout})"
            raise RefusedError(
                f"rule one-writer: the lease of this fleet's rollouts is held by {by}", where=str(self.path)
            )
        fresh = not self.path.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _cut_torn_line(file)
            file.write(msgspec.json.encode(event) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            atomic.fsync_dir(self.folder)

    def events(self) -> list[Event]:
        """Every event that was written whole."""
        try:
            return self._decode(self.path.read_bytes())
        except FileNotFoundError:
            return []

    def record(self, event: Event) -> State:
        """Append ``event`` and whatever follows from it; the state with all of that.

        Raises:
            RefusedError: This process does not hold the lease.
        """
        self.append(event)
        state = self.read()
        for each in decide.after(state, event):
            self.append(each)
        return self.read()

    def state(self) -> State | None:
        """What the journal says; None if it says nothing.

        Only lines that are new since the last call are read. The state is one object that the next call carries on.
        """
        self.advance()
        return self._state

    def advance(self) -> list[Event]:
        """Read what is new since the last call of this or ``state``, and fold it in; the new events."""
        try:
            with self.path.open("rb") as file:
                return self._catch_up(file)
        except FileNotFoundError:
            self._forget()
            return []

    def read(self) -> State:
        """What the journal says.

        Raises:
            ValueError: It says nothing yet.
        """
        state = self.state()
        if state is None:
            raise ValueError(f"{self.path} is empty: a plan comes first")
        return state

    def _catch_up(self, file: BinaryIO) -> list[Event]:
        status = os.fstat(file.fileno())
        if status.st_ino != self._inode or status.st_size < self._read_bytes:
            self._forget()
            self._inode = status.st_ino
        file.seek(self._read_bytes)
        data = file.read()
        events = self._decode(data, first_line=self._read_lines + 1)
        self._read_bytes += data.rfind(b"\n") + 1
        self._read_lines += len(events)
        self._state = replay(events, self._state)
        return events

    def _decode(self, data: bytes, *, first_line: int = 1) -> list[Event]:
        lines = data.split(b"\n")[:-1]
        events: list[Event] = []
        for number, line in enumerate(lines, start=first_line):
            try:
                events.append(_DECODER.decode(line))
            except msgspec.DecodeError as error:
                raise JournalError(
                    f"the journal is damaged: {error}",
                    where=f"{self.path}:{number}",
                    next_step=f"keep the file for inquiry, move {self.folder} away, and start a new rollout",
                ) from error
        return events


_SHARED: dict[Path, Journal] = {}


def _cut_torn_line(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
