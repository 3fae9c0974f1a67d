"""The lines of a chained log (``hedgerow.chainlog``): read one after another, and what the next one must say. No files.

An entry is a JSON object with ``entry`` and ``previous``. Every other line is *loose*: older than the chain, torn by a
power cut, or put in by somebody. ``previous`` covers all bytes from the last entry's line on, so loose lines too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

FIRST: Final = "0" * 64
RESERVED: Final = frozenset({"entry", "previous", "torn"})

_HEAD = re.compile(r"(0|[1-9][0-9]{0,17}):([0-9a-f]{64})")


class Head(NamedTuple):
    """The end of a log: how many entries, and the SHA-256 (hex) of the last one's line. As text ``NUMBER:SHA256``."""

    entries: int = 0
    sha256: str = FIRST

    def __str__(self) -> str:
        return f"{self.entries}:{self.sha256}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read ``NUMBER:SHA256``.

        Raises:
            ValueError: it is something else.
        """
        found = _HEAD.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:80]!r} is no head of a log: NUMBER:SHA256")
        return cls(int(found[1]), found[2])


class Line(NamedTuple):
    """One line as it stands. ``entry`` is None of a loose line; ``fields`` of one that is no JSON object.

    ``expected`` is what ``previous`` must be here. ``ended`` is False of a last line without its line end.
    """

    number: int
    size: int
    fields: dict[str, Any] | None
    entry: int | None
    sha256: str
    expected: str
    ended: bool

    @property
    def follows(self) -> bool:
        return self.fields is not None and self.fields["previous"] == self.expected

    @property
    def torn(self) -> int:
        """How many torn lines this entry says are before it."""
        claimed = (self.fields or {}).get("torn", 0)
        return claimed if isinstance(claimed, int) else -1


def digest(data: bytes) -> str:
    """SHA-256 (hex)."""
    return hashlib.sha256(data).hexdigest()


def lines(data: Iterable[bytes]) -> Iterator[Line]:
    """Every line of a log that begins at its first byte; ``data`` gives lines with their ends, as a file does."""
    span = hashlib.sha256()
    empty = True
    for number, whole in enumerate(data, start=1):
        raw = whole.removesuffix(b"\n")
        fields = decode(raw)
        entry = number_of(fields)
        expected = FIRST if empty else span.hexdigest()
        yield Line(number, len(whole), fields, entry, digest(raw), expected, ended=whole.endswith(b"\n"))
        if entry is not None:
            span = hashlib.sha256(raw)
        else:
            span.update(raw if empty else b"\n" + raw)
        empty = False


class Position(NamedTuple):
    """Where a chain goes on. ``line_end`` ends a line that was cut off; ``torn`` counts loose lines at the end."""

    entries: int
    sha256: str
    previous: str
    torn: int
    line_end: bytes

    @classmethod
    def after(cls, data: bytes, *, whole: bool, adopt: bool) -> Position | None:
        """The end of a log from its last bytes, which begin with a line; None if they hold no entry.

        ``whole`` says that ``data`` is all there is, ``adopt`` that loose lines before the first entry are older than
        the chain. A last line that lacks its end alone is an entry: its writer stopped before it could act.
        """
        line_end = b"" if not data or data.endswith(b"\n") else b"\n"
        body = data.removesuffix(b"\n")
        loose, end = 0, len(body)
        while end >= 0 and body:
            start = body.rfind(b"\n", 0, end) + 1
            raw = body[start:end]
            entry = number_of(decode(raw))
            if entry is not None:
                return cls(entry, digest(raw), digest(body[start:]), loose, line_end)
            loose += 1
            end = start - 1
        if not whole:
            return None
        return cls(0, FIRST, digest(body) if body else FIRST, 0 if adopt else loose, line_end)


def decode(raw: bytes) -> dict[str, Any] | None:
    """A line's object; None if it is none."""
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) else None


def number_of(fields: dict[str, Any] | None) -> int | None:
    """An entry's number; None of a loose line."""
    if fields is None or not isinstance(fields.get("previous"), str):
        return None
    number = fields.get("entry")
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else None
