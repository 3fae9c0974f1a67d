"""The promotion log: what was released, promoted, withdrawn or given other keys, when, and on whose word.

- Entries are files ``log/00000001.json`` …, each holding the SHA-256 of the one before. Snapshot's signature covers
  their number and the last one's hash, so that neither a changed entry nor a missing end passes.
- An entry is written before the snapshot that names it. One that no snapshot names never happened: the next takes its
  place.
- An entry names the versions of the metadata that it speaks of; those stay in the registry as evidence, and the log is
  checked against their signatures, not only against itself.
"""

from __future__ import annotations

import getpass
import hashlib
import os
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from tuf.api.metadata import Snapshot

from hedgerow.errors import PublisherError
from hedgerow.registry import trust_names as names
from hedgerow.registry.store import Store

FOLDER: Final = "log"
FIRST_PREVIOUS: Final = "0" * 64


class Person(Struct, frozen=True, forbid_unknown_fields=True):
    """A key whose signature holds, and who answers for it as the metadata says."""

    owner: str
    keyid: str


class Event(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What happened, before it is an entry.

    ``subject`` is NAME@VERSION, or a role for ``roles``. ``kind`` and ``sha256`` (of the manifest) are a bundle's,
    ``origin`` is the stage that it was promoted from; ``built`` and ``approved`` are who signed, for ``roles`` the
    signers of root or targets stand in ``approved``. ``changes`` says in words what changed in a role.
    """

    what: Literal["release", "promote", "withdraw", "roles"]
    subject: str
    kind: str = ""
    sha256: str = ""
    origin: str = ""
    built: tuple[Person, ...] = ()
    approved: tuple[Person, ...] = ()
    changes: tuple[str, ...] = ()


class Entry(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line of the log. ``roles`` maps each role to the version that it has from now on; ``at`` is RFC 3339."""

    entry: int
    previous: str
    at: str
    operator: str
    event: Event
    roles: dict[str, int]
    note: str = ""


class Anchor(Struct, frozen=True):
    """What snapshot says of the log: how many entries, and the last one's SHA-256."""

    entries: int = 0
    sha256: str = FIRST_PREVIOUS


def anchor(snapshot: Snapshot | None) -> Anchor:
    """The log's end as the snapshot knows it."""
    found = None if snapshot is None else snapshot.unrecognized_fields.get(names.LOG)
    return Anchor() if found is None else msgspec.convert(found, Anchor)


def set_anchor(snapshot: Snapshot, end: Anchor) -> None:
    """Let the snapshot's signature cover the log."""
    snapshot.unrecognized_fields[names.LOG] = msgspec.to_builtins(end)


def path(number: int) -> str:
    """Where an entry lies in the store."""
    return f"{FOLDER}/{number:08d}.json"


def encode(entry: Entry) -> bytes:
    """An entry's bytes: one form, so that the same entry has one hash."""
    return msgspec.json.format(msgspec.json.encode(entry, order="sorted"), indent=1) + b"\n"


def decode(data: bytes, where: str) -> Entry:
    """Read an entry.

    Raises:
        PublisherError: it is no entry.
    """
    try:
        return msgspec.json.decode(data, type=Entry)
    except msgspec.DecodeError as error:
        raise PublisherError(f"an entry of the log cannot be read: {error}", where=where) from error


def append(
    store: Store, end: Anchor, events: Sequence[Event], *, at: str, operator: str, roles: dict[str, int], note: str
) -> Anchor:
    """Write an entry for each event behind ``end``; the new end, for the snapshot."""
    for event in events:
        entry = Entry(end.entries + 1, end.sha256, at, operator, event, roles, note)
        data = encode(entry)
        store.put(path(entry.entry), data)
        end = Anchor(entry.entry, digest(data))
    return end


def read(store: Store, end: Anchor) -> list[Entry]:
    """Every entry up to ``end``, checked from one to the next.

    Raises:
        PublisherError: one is missing or changed, or the log does not end where the snapshot says.
    """
    entries: list[Entry] = []
    previous = FIRST_PREVIOUS
    for number in range(1, end.entries + 1):
        where = path(number)
        data = store.get(where)
        if data is None:
            raise _broken(f"entry {number} of {end.entries} is missing", where)
        entry = decode(data, where)
        if entry.entry != number or entry.previous != previous:
            raise _broken(f"entry {number} does not follow the one before: one of the two was changed", where)
        entries.append(entry)
        previous = digest(data)
    if previous != end.sha256:
        raise _broken("the last entry is not the one that the snapshot names", path(end.entries))
    return entries


def check_end(store: Store, end: Anchor) -> None:
    """Check the last entry alone, which is what the next one will follow.

    Raises:
        PublisherError: it is missing or changed.
    """
    if end.entries and (data := store.get(path(end.entries))) is not None and digest(data) == end.sha256:
        return
    if end.entries:
        raise _broken(f"entry {end.entries} is not the one that the snapshot names", path(end.entries))


def operator() -> str:
    """Who runs this, as the system says; a hint for people, vouched for by nobody."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"


def digest(data: bytes) -> str:
    """SHA-256 (hex)."""
    return hashlib.sha256(data).hexdigest()


def as_row(entry: Entry) -> tuple[Any, ...]:
    """An entry as a line for people."""
    event = entry.event
    what = f"{event.what} from {event.origin}" if event.origin else event.what
    detail = "; ".join(event.changes) or event.sha256[:12]
    return entry.entry, entry.at, what, event.subject, detail, _people(event.built), _people(event.approved), entry.note


def _people(people: tuple[Person, ...]) -> str:
    return ", ".join(f"{each.owner} ({each.keyid[:8]})" for each in people)


def _broken(what: str, where: str) -> PublisherError:
    return PublisherError(
        f"the promotion log was changed: {what}",
        where=where,
        next_step="compare with a copy of the registry; nothing is released while the log is broken",
    )
