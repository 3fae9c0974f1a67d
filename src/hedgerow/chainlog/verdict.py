"""Whether a chained log holds: every line looked at once, in order. No files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from hedgerow.chainlog.lines import FIRST, Head, Line


class Problem(msgspec.Struct, frozen=True):
    """A place where the chain does not hold. ``line`` counts from 1; 0 is the log as a whole."""

    line: int
    what: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at the whole log found. ``unchained`` lines are older than the chain; ``torn`` ones were never done.

    ``unfinished_bytes`` are at the end, without a line end: an append that is under way or was cut off.
    """

    entries: int
    unchained: int
    torn: int
    unfinished_bytes: int
    head: Head
    problems: list[Problem]

    @property
    def holds(self) -> bool:
        return not self.problems


def judge(lines: Iterable[Line], heads: Mapping[str, Head], *, adopt: bool) -> Verdict:
    """Look at ``lines``, and whether each of ``heads`` (by who says so) is among them as it was.

    ``adopt`` allows lines before the first entry that are older than the chain.
    """
    problems: list[Problem] = []
    known = {0: FIRST}
    unchained = torn = unfinished = loose = 0
    head = Head()
    for line in lines:
        if not line.ended:
            unfinished = line.size
        elif line.entry is None:
            if adopt and not head.entries:
                unchained += 1
            else:
                loose += 1
        else:
            if line.entry != head.entries + 1:
                problems.append(Problem(line.number, f"entry {line.entry} stands where {head.entries + 1} belongs"))
            if not line.follows:
                problems.append(Problem(line.number, "the line before this one was changed, or one was taken out"))
            if line.torn != loose:
                problems.append(Problem(line.number - 1, "this line is no entry: it was put in or made unreadable"))
            torn, loose = torn + loose, 0
            head = Head(line.entry, line.sha256)
            known[line.entry] = line.sha256
    problems += _missing(known, heads)
    return Verdict(
        entries=len(known) - 1,
        unchained=unchained,
        torn=torn + loose,
        unfinished_bytes=unfinished,
        head=head,
        problems=problems,
    )


def _missing(known: Mapping[int, str], heads: Mapping[str, Head]) -> Iterator[Problem]:
    for who, each in heads.items():
        if each.entries not in known:
            yield Problem(0, f"{who} names entry {each.entries}, which is not here: the end was cut off")
        elif known[each.entries] != each.sha256:
            yield Problem(0, f"{who} has another hash for entry {each.entries}: the log was rewritten")
