"""``kill -9`` of the controller at any point that another process could notice, in a world whose clock sleeping moves.

A kill is an exception that nobody catches, raised before a journal line, in the middle of one (a torn line is left on
the disk), after one, and wherever the world says ``point``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from hedgerow.rollout.hostline import Clock
from hedgerow.rollout.journal import Journal


class Killed(BaseException):
    """``kill -9`` of the controller."""


@dataclass(kw_only=True)
class Moments:
    """The clock, and the moment of the kill: at the ``kill_at``-th point, never where that is None."""

    kill_at: int | None = None
    points: int = 0
    now: float = 0.0

    def point(self) -> None:
        """Anything that another process could notice happens here, or has just happened."""
        self.points += 1
        if self.points == self.kill_at:
            raise Killed

    def clock(self) -> Clock:
        def sleep(seconds: float) -> None:
            self.now += seconds

        start = datetime(2026, 11, 21, 12, tzinfo=UTC)
        return Clock(lambda: self.now, sleep, lambda: start + timedelta(seconds=self.now))


def killable_journal(moments: Moments, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the journal's lines be points as well, before, in the middle, and after."""
    append = Journal.append

    def killable(journal: Journal, event: object) -> None:
        moments.point()
        moments.points += 1
        if moments.points == moments.kill_at:
            journal.folder.mkdir(parents=True, exist_ok=True)
            with journal.path.open("ab") as file:
                file.write(msgspec.json.encode(event)[:-3])
            raise Killed
        append(journal, event)  # type: ignore[arg-type]
        moments.point()

    monkeypatch.setattr(Journal, "append", killable)
    # A killed process loses no page that the kernel has: only a power cut needs what fsync does.
    monkeypatch.setattr(os, "fsync", lambda _: None)
