"""The lines of the audit log: types alone. Fields that come later have defaults, so that old logs are read."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

NoteKind = Literal["note", "break-glass"]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """``at`` is RFC 3339 in UTC, ``by`` is ``user@machine`` as the system says."""

    at: str
    by: str


class RunStarted(_Event, frozen=True, kw_only=True, tag="run_started"):
    """A playbook is about to touch hosts. Without an end of the same ``run``, it was killed or runs still.

    ``hosts`` are those of the inventory within ``limit``. Extra variables are not here, not even by name.
    """

    run: str
    playbook: str
    inventory: list[str]
    hosts: list[str]
    limit: str | None = None
    tags: list[str] = []
    skip_tags: list[str] = []
    check: bool = False


class RunEnded(_Event, frozen=True, kw_only=True, tag="run_ended"):
    """How it went: Ansible's counts over all hosts, and who changed, failed or did not answer."""

    run: str
    counts: dict[str, int]
    changed: list[str] = []
    failed: list[str] = []
    unreachable: list[str] = []


class Did(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one or more lines of another log say: who (if that log knows) did what to whom; ``at`` is the last one's."""

    what: str
    at: str
    by: str = ""
    about: list[str] = []


class Sealed(_Event, frozen=True, kw_only=True, tag="sealed"):
    """What another log says since it was last looked at, and a seal on all of it.

    ``source`` is its path below the fleet's folder. ``sha256`` is of its first ``bytes`` bytes.
    """

    source: str
    bytes: int
    sha256: str
    did: list[Did] = []


class Disturbed(_Event, frozen=True, kw_only=True, tag="disturbed"):
    """A log that was sealed is not as it was: cut, changed or gone. ``bytes`` None: gone. Its seal begins anew here."""

    source: str
    what: str
    bytes: int | None = None
    sha256: str = ""


class Noted(_Event, frozen=True, kw_only=True, tag="noted"):
    """Written down by a person, or by a program in a person's name."""

    kind: NoteKind
    text: str


class BackedUp(_Event, frozen=True, kw_only=True, tag="backed_up"):
    """A backup was made, or this fleet was restored from one. ``sha256`` is the encrypted file's."""

    what: Literal["created", "restored"]
    file: str
    sha256: str
    files: int


Event = RunStarted | RunEnded | Sealed | Disturbed | Noted | BackedUp
EVENTS: tuple[type[Any], ...] = Event.__args__
