"""The file of a chained log and its anchor: appended to under a lock, read, and handed to the verdict."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from hedgerow import atomic
from hedgerow.chainlog.lines import RESERVED, Head, Line, Position, digest, lines
from hedgerow.chainlog.verdict import Problem, Verdict, judge
from hedgerow.errors import HedgerowError, MachineError

_TAIL_BYTES: Final = 1 << 16

T = TypeVar("T")


class ChainError(HedgerowError):
    """A log that was changed, cut off, or cannot be read."""


class Entry(NamedTuple, Generic[T]):
    """One entry as it stands in the log; ``sha256`` is its line's."""

    number: int
    value: T
    sha256: str


class ChainLog(Generic[T]):
    """The log at ``path`` of entries of type ``kind`` (a msgspec Struct or a tagged union of them).

    ``adopt`` says that lines from before the chain may stand at its beginning. ``name`` is what errors call it.
    """

    def __init__(self, path: Path, kind: Any, *, name: str = "log", mode: int = 0o600, adopt: bool = False) -> None:
        self.path = path
        self.anchor_path = path.with_name(f"{path.name}.head")
        self.name = name
        self._kind = kind
        self._mode = mode
        self._adopt = adopt

    def append(self, entry: T) -> Head:
        """Write one entry durably; the new end of the log. Raises as ``append_all`` does."""
        return self.append_all([entry])

    def append_all(self, entries: Sequence[T]) -> Head:
        """Write entries in one go, one ``fsync`` for all: all are on the disk when it returns.

        Safe among processes and threads. The log's folder must be there.

        Raises:
            MachineError: the disk is full or fails; none of them may be taken as written.
            ChainError: the log was cut off or its end cannot be read; nothing was written.
        """
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, self._mode)
        except OSError as error:
            raise self._unwritable(error) from error
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            position = self._position(descriptor, size)
            data, head = self._encode(entries, position)
            try:
                self._require_whole_end(position)
                _write_all(descriptor, data)
                os.fsync(descriptor)
                if size == 0:
                    atomic.fsync_dir(self.path.parent)
            except OSError as error:
                # A whole line would pass for an entry. Where chattr +a forbids to cut, the next append says torn.
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise self._unwritable(error) from error
            # The entries stand. An anchor that finds no room lags behind them, which is no lie.
            with contextlib.suppress(OSError):
                self._write_anchor(head)
        return head

    def head(self) -> Head:
        """The last entry's number and hash, from the end of the file alone; ``Head()`` if there is no entry.

        Raises:
            ChainError: the end cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                position = self._position(file.fileno(), os.fstat(file.fileno()).st_size)
        except FileNotFoundError:
            return Head()
        return Head(position.entries, position.sha256)

    def anchor(self) -> Head | None:
        """The end that the anchor names; None if there is none.

        Raises:
            ChainError: it cannot be read.
        """
        try:
            return Head.parse(self.anchor_path.read_text(encoding="utf-8").strip())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ChainError(
                f"the anchor of the {self.name} cannot be read",
                where=str(self.anchor_path),
                next_step="compare the log with a head that was published, then write that head into this file",
            ) from error

    def entries(self) -> Iterator[Entry[T]]:
        """Every entry that was written whole, oldest first; lines from before the chain have number 0.

        Hashes are not compared here (``verify``).

        Raises:
            ChainError: a line cannot be read.
        """
        loose: list[Line] = []
        chained = False
        for line in self._lines():
            older = self._adopt and not chained
            if line.entry is None:
                if older and line.fields is not None and line.ended:
                    yield Entry(0, self._decode(line), line.sha256)
                elif not older:
                    loose.append(line)
                continue
            if not line.ended:
                return
            if loose and line.torn != len(loose):
                raise ChainError(
                    f"the {self.name} is damaged", where=f"{self.path}:{loose[0].number}", next_step=_INQUIRE
                )
            chained, loose = True, []
            yield Entry(line.entry, self._decode(line), line.sha256)

    def verify(self, *published: Head) -> Verdict:
        """Look at every line, at the anchor, and whether each ``published`` head is in the log as it was."""
        heads = {f"the published head {each.entries}": each for each in published}
        problems: list[Problem] = []
        try:
            # Before the log: who appends meanwhile must not look like one who cut the end off.
            anchor = self.anchor()
        except ChainError as error:
            problems.append(Problem(0, error.what))
        else:
            if anchor is not None:
                heads["the anchor"] = anchor
        found = judge(self._lines(), heads, adopt=self._adopt)
        if found.entries and not problems and "the anchor" not in heads:
            gone = f"{self.anchor_path.name} is gone: nobody can tell whether the end was cut off"
            problems.append(Problem(0, gone))
        return msgspec.structs.replace(found, problems=[*found.problems, *problems])

    def check(self, *published: Head) -> Verdict:
        """``verify``, for who wants to go on only with a whole log.

        Raises:
            ChainError: it is not; the message names the first place.
        """
        verdict = self.verify(*published)
        if verdict.problems:
            first = verdict.problems[0]
            more = f" (and {len(verdict.problems) - 1} more places)" if len(verdict.problems) > 1 else ""
            raise ChainError(
                f"the {self.name} was changed: {first.what}{more}",
                where=f"{self.path}:{first.line}" if first.line else str(self.path),
                next_step=_INQUIRE,
            )
        return verdict

    def _lines(self) -> Iterator[Line]:
        try:
            with self.path.open("rb") as file:
                yield from lines(file)
        except FileNotFoundError:
            return

    def _decode(self, line: Line) -> T:
        own = {key: value for key, value in (line.fields or {}).items() if key not in RESERVED}
        try:
            value: T = msgspec.convert(own, self._kind)
        except msgspec.ValidationError as error:
            where = f"{self.path}:{line.number}"
            raise ChainError(f"the {self.name} is damaged: {error}", where=where, next_step=_INQUIRE) from error
        return value

    def _position(self, descriptor: int, size: int) -> Position:
        """Where the chain goes on, from as few bytes of the file's end as hold an entry."""
        length = _TAIL_BYTES
        while True:
            start = max(0, size - length)
            data = os.pread(descriptor, size - start, start)
            if start:
                data = data[data.find(b"\n") + 1 :]
            position = Position.after(data, whole=start == 0, adopt=self._adopt)
            if position is not None:
                return position
            length *= 4

    def _require_whole_end(self, position: Position) -> None:
        """Whether the log ends where its anchor says, or behind it; a log without entries gets its anchor here.

        Raises:
            ChainError: it does not.
        """
        anchor = self.anchor()
        if anchor is None and position.entries == 0:
            self._write_anchor(Head())
        elif (
            anchor is None
            or anchor.entries > position.entries
            or (anchor.entries == position.entries and anchor.sha256 != position.sha256)
        ):
            named = "is gone" if anchor is None else f"names {anchor}"
            raise ChainError(
                f"the {self.name} ends with entry {position.entries}, its anchor {named}: one of the two was changed",
                where=f"{self.path}, {self.anchor_path.name}",
                next_step=_INQUIRE,
            )

    def _encode(self, entries: Sequence[T], position: Position) -> tuple[bytes, Head]:
        data, torn = position.line_end, position.torn
        previous, number = position.previous, position.entries
        for entry in entries:
            number += 1
            fields: dict[str, Any] = {**msgspec.to_builtins(entry), "entry": number, "previous": previous}
            if torn:
                fields["torn"] = torn
            line = msgspec.json.encode(fields, order="sorted")
            data += line + b"\n"
            previous, torn = digest(line), 0
        return data, Head(number, previous) if entries else Head(position.entries, position.sha256)

    def _write_anchor(self, head: Head) -> None:
        atomic.write_text(self.anchor_path, f"{head}\n", mode=self._mode)

    def _unwritable(self, error: OSError) -> MachineError:
        return MachineError(
            f"the {self.name} cannot be written: {error.strerror}; what it would have said is not done",
            where=str(self.path),
            next_step=f"make room or mend the disk (df -h {self.path.parent}), then run the command again",
        )


_INQUIRE = "keep both files for inquiry, and compare them with your backup and with heads that you published"


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
