"""Check the promotion log against what was signed: every entry against the metadata of its own time.

The chain (``log.read``) shows that no entry was changed or taken away since the snapshot was signed. This shows that
an entry told the truth: the roles that it names did name that manifest then, signed by the keys that it names.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuf.api.exceptions import RepositoryError

from hedgerow.errors import HedgerowError, PublisherError
from hedgerow.registry.authority import log, releases, repository, roles
from hedgerow.registry.authority.log import Entry, Event
from hedgerow.registry.authority.releases import View
from hedgerow.registry.authority.session import Session
from hedgerow.registry.store import Store


@dataclass(frozen=True)
class Audit:
    """Every entry, and what is wrong with some: (number of the entry, why)."""

    entries: tuple[Entry, ...]
    wrong: tuple[tuple[int, str], ...]


def read(session: Session) -> list[Entry]:
    """The log, its chain checked up to the end that snapshot's signature names.

    Raises:
        PublisherError: the chain is broken, or the metadata are damaged.
    """
    state = session.look().state
    return log.read(session.store, log.anchor(None if state is None else state.snapshot.signed))


def verify(session: Session) -> Audit:
    """Read the log and hold each entry against the metadata that it names.

    Raises:
        PublisherError: the chain is broken, or the metadata are damaged.
    """
    entries = read(session)
    wrong = []
    for entry in entries:
        try:
            _check(session.store, entry)
        except HedgerowError as error:
            wrong.append((entry.entry, error.what))
        except (RepositoryError, ValueError) as error:
            wrong.append((entry.entry, f"its metadata does not hold: {error}"))
    state = session.look().state
    told = _told(entries)
    view = None if state is None else View(state.root, state.targets, state.delegated)
    wrong += [
        (0, f"{release.reference} ({release.kind}) is released and the log does not tell it")
        for release in releases.releases(view)
        if told.get((release.kind, release.reference)) != release.sha256
    ]
    return Audit(tuple(entries), tuple(wrong))


def _check(store: Store, entry: Entry) -> None:
    """Raise PublisherError where the metadata of the entry's versions say something else."""
    event = entry.event
    if event.what == "roles":
        return
    view = _view(store, entry)
    name, _, version = event.subject.partition("@")
    release = releases.find(view, event.kind, name, version)
    if event.what == "withdraw":
        if release is not None:
            raise PublisherError(f"{event.subject} was still released")
        return
    if release is None or release.sha256 != event.sha256:
        raise PublisherError(f"{event.subject} was not released with {event.sha256[:12]} then")
    _check_people(view, event, release.build_role, release.approve_role)


def _check_people(view: View, event: Event, build_role: str, approve_role: str) -> None:
    for role, people in ((build_role, event.built), (approve_role, event.approved)):
        metadata = view.delegated[role]
        result = view.targets.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        if releases.people(result.signed) != people:
            raise PublisherError(f"{role} was signed by others than the entry names")


def _view(store: Store, entry: Entry) -> View:
    """The state of the entry's time, each signature checked."""
    root = repository.root_version(store, entry.roles[roles.ROOT])
    targets = repository.targets_version(store, roles.TARGETS, entry.roles[roles.TARGETS])
    root.signed.verify_delegate(roles.TARGETS, targets.signed_bytes, targets.signatures)
    delegated = {}
    for role, version in entry.roles.items():
        if role not in roles.TOP_LEVEL:
            metadata = repository.targets_version(store, role, version)
            targets.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
            delegated[role] = metadata
    return View(root, targets, delegated)


def _told(entries: list[Entry]) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for entry in entries:
        event = entry.event
        if event.what in {"release", "promote"}:
            found[event.kind, event.subject] = event.sha256
        elif event.what == "withdraw":
            found.pop((event.kind, event.subject), None)
    return found
