"""The lines of a journal, and what an operator can ask: types alone.

An event is written **before** what it announces is done (``HostStarted``) or
**after** what it reports has happened (all others), so a journal cut off
anywhere never forgets a host that was touched. Every field that came later has
a default: journals of older releases still replay.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from hedgerow.rollout.gate.verdicts import CriterionResult
from hedgerow.rollout.plan import Plan


class Outcome(StrEnum):
    """How a host came out of its turn."""

    CONFIRMED = "confirmed"
    """It serves the release, and the device's deadline is ended."""
    ALREADY = "already"
    """It served the release before its turn; nothing was done."""
    REFUSED = "refused"
    """Its preflight failed; nothing was done."""
    REVERTED = "reverted"
    """It failed and serves the version before, or nothing, as it did."""
    KEPT = "kept"
    """It failed and serves the release all the same: a device rather keeps its first model than serve none."""
    LOST = "lost"
    """Nobody could make it go back. Unconfirmed, its own deadline will; it is resolved when it returns."""
    UNREACHABLE = "unreachable"
    """It did not answer before its turn; nothing was done."""
    ENVIRONMENT = "environment"
    """Its supply or its heat explains the breach: set aside, back on the version before, the release not blamed."""
    UNJUDGED = "unjudged"
    """Nobody could say how it does: back on the version before, and the rollout waits for a person."""
    UNDONE = "undone"
    """It was well, and was brought back because the rollout was stopped or rolled back."""
    SKIPPED = "skipped"
    """Its turn came when nobody might start, or its source was gone; nothing was done."""


GOOD = frozenset({Outcome.CONFIRMED, Outcome.ALREADY})
FAILED = frozenset({Outcome.REFUSED, Outcome.REVERTED, Outcome.KEPT, Outcome.LOST})
HARMED = FAILED - {Outcome.REFUSED}
"""Failed with the release on it: what makes a stop a breach, so that the others go back, too."""
AWAY = frozenset({Outcome.LOST, Outcome.KEPT, Outcome.UNREACHABLE})
"""Left as somebody who may serve no user of its site."""
UNTOUCHED = frozenset({Outcome.ALREADY, Outcome.REFUSED, Outcome.UNREACHABLE, Outcome.SKIPPED})


class RequestKind(StrEnum):
    """What an operator can ask of a rollout."""

    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approve"
    ABORT = "abort"
    ROLLBACK = "rollback"
    SUPERSEDE = "supersede"


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of ``requests.jsonl``. ``rollout`` is the id it is meant for, so that no approval serves two.

    ``wave`` is approve's; ``bundle`` is supersede's (what comes instead); ``signature`` is armoured OpenSSH
    (PROTOCOL.sshsig) over ``signed_bytes``.
    """

    kind: RequestKind
    rollout: str
    by: str
    at: str
    reason: str = ""
    wave: int | None = None
    bundle: str | None = None
    signature: str | None = None

    def signed_bytes(self) -> bytes:
        """What a signature covers: every other field, as JSON with sorted keys."""
        return msgspec.json.encode(msgspec.structs.replace(self, signature=None), order="sorted")


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """``at`` is RFC 3339 in UTC."""

    at: str


class Opened(_Event, frozen=True, kw_only=True, tag="opened"):
    """The rollout began. ``by`` says who, where and with which process."""

    plan: Plan
    by: str


class Resumed(_Event, frozen=True, kw_only=True, tag="resumed"):
    """A new process took the rollout over. ``plan`` replaces the one before: hosts may have come, limits changed."""

    plan: Plan
    by: str


class Surveyed(_Event, frozen=True, kw_only=True, tag="surveyed"):
    """Whether every host can go back, asked before the first is touched. Hosts by what was found."""

    known: int
    """Hosts that serve a version the registry vouches for."""
    first: list[str] = []
    """They serve nothing yet: there is nothing to go back to."""
    unknown: list[str] = []
    """They serve a version that this registry does not have; it is on the device alone."""
    refused: dict[str, str] = {}
    """Host → why it cannot be brought back; it is left out."""
    silent: list[str] = []
    """They did not answer; their own preflight asks again."""


class WaveOpened(_Event, frozen=True, kw_only=True, tag="wave_opened"):
    """A wave may start. ``number`` counts from 1."""

    number: int
    hosts: list[str]


class Waiting(_Event, frozen=True, kw_only=True, tag="waiting"):
    """Nobody starts for now; ``code`` is a ``decide.WaitCode``."""

    code: str
    reason: str


class Rechecked(_Event, frozen=True, kw_only=True, tag="rechecked"):
    """Hosts were looked at before a wave: confirmed ones, and those that may not be available beside the wave's own.

    ``last``: the last of the confirmed ones, after whom the next look begins.
    """

    hosts: int
    last: str | None = None
    away: list[str] = []
    """Who of them did not answer, or is failing or without a model: of no use to its site's users."""
    back: list[str] = []
    """Who had been so, and is well."""


class HostPrepared(_Event, frozen=True, kw_only=True, tag="host_prepared"):
    """The preflight passed; nothing is changed yet. ``before`` and ``baseline`` as in ``HostStarted``."""

    host: str
    before: str | None
    baseline: list[str] = []


class HostStarted(_Event, frozen=True, kw_only=True, tag="host_started"):
    """A host is about to be changed. ``baseline`` are the reason codes that already stood."""

    host: str
    before: str | None
    baseline: list[str] = []


class HostStaged(_Event, frozen=True, kw_only=True, tag="host_staged"):
    """The whole release is on the device and verified; nothing changed in serving. ``new_bytes`` None: not said."""

    host: str
    seconds: float
    new_bytes: int | None = None


class HostRetried(_Event, frozen=True, kw_only=True, tag="host_retried"):
    """A step failed for a cause that passes; it is tried again after ``after_s`` seconds."""

    host: str
    attempt: int
    cause: str
    after_s: float


class HostActivated(_Event, frozen=True, kw_only=True, tag="host_activated"):
    """The device says that it serves the release, unconfirmed. ``seconds``: how long the command took.

    ``load_s``: how long of that the server loaded the model; None: not said, or it was loaded before.
    """

    host: str
    seconds: float
    load_s: float | None = None


class HostJudged(_Event, frozen=True, kw_only=True, tag="host_judged"):
    """The gate's last word. ``looks``: how often the host was looked at; ``before``/``after``: metrics by name."""

    host: str
    verdict: str
    reason: str
    looks: int
    seconds: float
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    criteria: list[CriterionResult] = []


class HostFinished(_Event, frozen=True, kw_only=True, tag="host_finished"):
    """The host's turn is over."""

    host: str
    outcome: Outcome
    reason: str


class HostFell(_Event, frozen=True, kw_only=True, tag="host_fell"):
    """A confirmed host got worse while the rollout waited; it counts as failed and goes back."""

    host: str
    reason: str


class HostUndone(_Event, frozen=True, kw_only=True, tag="host_undone"):
    """A host was brought back after its turn. ``outcome``: undone, reverted (it had failed), kept or lost."""

    host: str
    outcome: Outcome
    reason: str


class HostResolved(_Event, frozen=True, kw_only=True, tag="host_resolved"):
    """A lost host came back: what it serves now is known."""

    host: str
    outcome: Outcome
    reason: str


class OperatorAsked(_Event, frozen=True, kw_only=True, tag="operator_asked"):
    """A line of ``requests.jsonl`` was taken. ``refused`` says why it does not count; None: it does."""

    request: Request
    refused: str | None = None
    key: str | None = None
    """Fingerprint of the key that signed it."""


class Stopped(_Event, frozen=True, kw_only=True, tag="stopped"):
    """No further host may start. ``undo``: those that got the release in this rollout go back."""

    reason: str
    undo: bool = False


class RolledBack(_Event, frozen=True, kw_only=True, tag="rolled_back"):
    """The rollout as a whole is taken back."""

    reason: str


class Superseded(_Event, frozen=True, kw_only=True, tag="superseded"):
    """A newer rollout takes over; ``by`` names its bundle."""

    by: str


class Telling(_Event, frozen=True, kw_only=True, tag="telling"):
    """Somebody is about to be told, beside the rollout's work. ``message`` is its key; ``through``: the channels."""

    about: str
    through: list[str]
    message: str


class Notified(_Event, frozen=True, kw_only=True, tag="notified"):
    """Somebody was told. ``failed`` says why the message did not get there."""

    about: str
    through: str
    failed: str | None = None
    message: str = ""
    """The key of its ``Telling``."""
    known: bool = True
    """False: the rollout ended before the channel had answered; the message is still on its way."""


class Closed(_Event, frozen=True, kw_only=True, tag="closed"):
    """The process that ran it came to its end in order."""


Event = (
    Opened
    | Resumed
    | Surveyed
    | WaveOpened
    | Waiting
    | Rechecked
    | HostPrepared
    | HostStarted
    | HostStaged
    | HostRetried
    | HostActivated
    | HostJudged
    | HostFinished
    | HostFell
    | HostUndone
    | HostResolved
    | OperatorAsked
    | Stopped
    | RolledBack
    | Superseded
    | Telling
    | Notified
    | Closed
)

EVENTS: tuple[type[Any], ...] = Event.__args__
