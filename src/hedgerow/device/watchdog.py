"""When the model in service counts as failing, and what follows from it. Pure: no IO, and the time is handed in.

The canonical question is the cheapest golden input of the bundle in service. What became of it is one of:

- **answered**: as it should.
- **failed**: wrongly, with an error of the server's, or not in time. ``failures`` of these in a row are a finding.
- **unready**: the server is down or loads its model. It may: a board that has just booted reads from a slow card.
  Longer than ``patience_s`` it may not, and that is a finding, too.
- **excused**: it refuses for a good reason (busy, drained, or a command changes what is served). This says nothing, and
  an unready server's time stands still.

A finding about a version that waits for its confirmation takes it back at once; nobody has vouched for it yet. A
finding about a confirmed version is reported and changes nothing: a version that has passed its gate and fails now is
most often not the reason (heat, a full disk, a dying card), the version before is one that nobody has asked for, and a
fleet whose devices choose their versions themselves is no longer one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from msgspec import Struct


class AgentConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """How often the agent asks, and what it puts up with.

    ``interval_s`` between questions, ``pending_interval_s`` while a version waits for its confirmation; ``timeout_s``
    of one answer; ``failures`` in a row that are a finding; ``patience_s`` that a server may take to be ready: as long
    as systemd gives it (``TimeoutStartSec=`` of its unit).
    """

    interval_s: float = 60.0
    pending_interval_s: float = 5.0
    timeout_s: float = 30.0
    failures: int = 3
    patience_s: float = 180.0

    def __post_init__(self) -> None:
        for name in ("interval_s", "pending_interval_s", "timeout_s", "failures", "patience_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0")


class Answer(Enum):
    """What became of a question."""

    ANSWERED = auto()
    FAILED = auto()
    UNREADY = auto()
    EXCUSED = auto()


@dataclass(frozen=True)
class Look:
    """One question's fate; ``text`` says more where it was not answered."""

    answer: Answer
    text: str = ""


@dataclass(frozen=True)
class Watch:
    """What the agent remembers: of which ``version`` (the pending one, else None), and since when.

    ``asked_s`` is when the last question was; ``unready_s`` for how long the server has not been ready without an
    excuse, ``looked_s`` until when that was counted. Seconds, on one monotonic clock.
    """

    version: str | None = None
    failures: int = 0
    text: str = ""
    asked_s: float | None = None
    unready_s: float = 0.0
    looked_s: float | None = None


def begin(watch: Watch, pending: str | None) -> Watch:
    """Another version than before waits for its confirmation, or none does any more: count anew, and ask at once."""
    return watch if watch.version == pending else Watch(version=pending)


def due(watch: Watch, config: AgentConfig, now_s: float) -> bool:
    """Whether it is time for a question."""
    interval = config.interval_s if watch.version is None else config.pending_interval_s
    return watch.asked_s is None or now_s - watch.asked_s >= interval


def observe(watch: Watch, look: Look, now_s: float) -> Watch:
    """Take a question's fate into account."""
    looked, since = watch.looked_s, replace(watch, asked_s=now_s, looked_s=None)
    if look.answer is Answer.ANSWERED:
        return Watch(version=watch.version, asked_s=now_s)
    if look.answer is Answer.EXCUSED:
        return since
    if look.answer is Answer.FAILED:
        return replace(since, failures=watch.failures + 1, text=look.text, unready_s=0.0)
    passed = 0.0 if looked is None else now_s - looked
    return replace(since, text=look.text, looked_s=now_s, unready_s=watch.unready_s + passed)


def finding(watch: Watch, config: AgentConfig) -> str | None:
    """Why the version in service counts as failing; None while it does not."""
    if watch.failures >= config.failures:
        return f"{watch.failures} canonical questions in a row failed: {watch.text}"
    if watch.unready_s >= config.patience_s:
        return f"the server has not been ready for {watch.unready_s:.0f} s: {watch.text}"
    return None
