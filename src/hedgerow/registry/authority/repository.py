"""Read a stage's metadata from its store, and write it in an order that a kill cannot spoil.

Order of writes: contents first (before any of this), then delegated metadata and targets, then the log, then snapshot,
then the timestamp, which alone makes the new state visible. A new root comes last, or first; see ``publish``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from hedgerow.errors import PublisherError
from hedgerow.registry.authority import roles
from hedgerow.registry.authority.draft import Draft, State
from hedgerow.registry.authority.roles import SNAPSHOT, TARGETS, TIMESTAMP
from hedgerow.registry.store import ObjectStore, Store

METADATA: Final = "metadata"
STAGED: Final = "staged"

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True)
class Loaded:
    """What is published. ``mend`` says that a kill left snapshot or timestamp signed by keys of the root before."""

    state: State
    mend: bool


def load(store: Store) -> Loaded | None:
    """Read and verify the published metadata, along root → timestamp → snapshot → targets → delegations.

    None where nothing is published yet: the first root is written last of all.

    Raises:
        PublisherError: something is missing, or a signature or hash does not hold.
    """
    root_chain = _roots(store)
    if not root_chain:
        return None
    root = root_chain[-1]
    try:
        timestamp = Metadata[Timestamp].from_bytes(_read(store, "timestamp.json"))
        snapshot_data = _read(store, f"{timestamp.signed.snapshot_meta.version}.snapshot.json")
        timestamp.signed.snapshot_meta.verify_length_and_hashes(snapshot_data)
        snapshot = Metadata[Snapshot].from_bytes(snapshot_data)
        targets = _listed(store, snapshot.signed, TARGETS)
        state = State(root, targets, snapshot, timestamp)
        stale = [role for role in (TIMESTAMP, SNAPSHOT, TARGETS) if not _holds(state, role, root.signed)]
        for role in stale:
            # A kill between a new root and what it has signed anew: the root before still vouches for the state.
            if len(root_chain) == 1 or not _holds(state, role, root_chain[-2].signed):
                _metadata(state, role, root.signed)
        for role in roles.delegated_roles(targets.signed):
            if f"{role}.json" in snapshot.signed.meta:
                state.delegated[role] = _listed(store, snapshot.signed, role)
    except (RepositoryError, KeyError) as error:
        raise PublisherError(
            f"the registry's metadata is damaged: {error}",
            where=METADATA,
            next_step="restore metadata/ from a copy of the registry; its contents are not concerned",
        ) from error
    return Loaded(state, bool(stale))


def load_candidates(store: Store, draft: Draft) -> None:
    """Take up the candidates that earlier runs left.

    Raises:
        PublisherError: one is damaged.
    """
    for path in list(store.list(f"{STAGED}/")):
        data = store.get(path)
        if data is None:
            continue
        try:
            draft.adopt(path.removeprefix(f"{STAGED}/").removesuffix(".json"), data)
        except RepositoryError as error:
            raise PublisherError(
                f"a candidate is damaged: {error}", where=path, next_step="remove it, then stage and sign again"
            ) from error


def save_candidates(store: Store, draft: Draft) -> None:
    """Keep what was changed or signed for the next run.

    Root last, targets before: a kill in between leaves no new keys without what they must sign, and the same command
    again makes the whole change anew.
    """
    for role in reversed(draft.candidates()):
        metadata = draft.candidate(role)
        if role in draft.dirty and metadata is not None:
            store.put(f"{STAGED}/{role}.json", metadata.to_bytes())
    draft.dirty.clear()


def remove_candidates(store: ObjectStore, written: Iterable[str]) -> None:
    """Clear away candidates that are published; one that a kill leaves is known by its number."""
    for role in written:
        if role not in roles.ONLINE:
            store.delete(f"{STAGED}/{role}.json")


def write_targets(store: Store, changed: Iterable[tuple[str, Metadata[Targets]]]) -> None:
    """Write new versions of targets and delegated roles: unseen until a snapshot names them."""
    for role, metadata in changed:
        store.put(f"{METADATA}/{metadata.signed.version}.{role}.json", metadata.to_bytes())


def write_root(store: Store, root: Metadata[Root]) -> None:
    """Write a new root. Clients see it at once."""
    store.put(f"{METADATA}/{root.signed.version}.root.json", root.to_bytes())


def write_snapshot(store: Store, snapshot: Metadata[Snapshot]) -> None:
    """Write a new snapshot: unseen until the timestamp names it."""
    store.put(f"{METADATA}/{snapshot.signed.version}.snapshot.json", snapshot.to_bytes())


def write_timestamp(store: Store, timestamp: Metadata[Timestamp]) -> None:
    """Make the new state visible."""
    store.put(f"{METADATA}/timestamp.json", timestamp.to_bytes())


def meta_of(metadata: Metadata[Any]) -> MetaFile:
    """What the metadata above says of a file: its version, and length and hash, so that no other one passes for it."""
    return MetaFile.from_data(metadata.signed.version, metadata.to_bytes(), ["sha256"])


def history(store: Store, role: str, newest: int) -> list[Metadata[Targets]]:
    """The published versions of a role that are still in the registry, oldest first."""
    found = (store.get(f"{METADATA}/{version}.{role}.json") for version in range(1, newest + 1))
    return [Metadata[Targets].from_bytes(data) for data in found if data is not None]


def targets_history(store: Store, *, published: Metadata[Targets] | None) -> list[Targets]:
    """Every version of top-level targets that is still there and that a root of the chain vouches for."""
    newest = 0 if published is None else published.signed.version
    chain = _roots(store)
    return [
        version.signed
        for version in history(store, TARGETS, newest)
        if any(root.signed.get_verification_result(TARGETS, version.signed_bytes, version.signatures) for root in chain)
    ]


def root_version(store: Store, version: int) -> Metadata[Root]:
    """One root of the chain.

    Raises:
        PublisherError: it is not there.
    """
    return Metadata[Root].from_bytes(_read(store, f"{version}.root.json"))


def targets_version(store: Store, role: str, version: int) -> Metadata[Targets]:
    """One version of targets or of a delegated role.

    Raises:
        PublisherError: it is not there.
    """
    return Metadata[Targets].from_bytes(_read(store, f"{version}.{role}.json"))


def _roots(store: Store) -> list[Metadata[Root]]:
    """Every root from the first, each signed by the keys of the one before and by its own."""
    chain: list[Metadata[Root]] = []
    while (data := store.get(f"{METADATA}/{len(chain) + 1}.root.json")) is not None:
        try:
            metadata = Metadata[Root].from_bytes(data)
            previous = chain[-1].signed if chain else None
            result = metadata.signed.get_root_verification_result(previous, metadata.signed_bytes, metadata.signatures)
        except (RepositoryError, ValueError) as error:
            raise _bad_root(len(chain) + 1, str(error)) from error
        if not result:
            raise _bad_root(len(chain) + 1, "it is not signed by the root before")
        chain.append(metadata)
    return chain


def _bad_root(version: int, why: str) -> PublisherError:
    return PublisherError(
        f"root {version} is damaged: {why}",
        where=f"{METADATA}/{version}.root.json",
        next_step="restore metadata/ from a copy of the registry, and find out who wrote this file",
    )


def _listed(store: Store, snapshot: Snapshot, role: str) -> Metadata[Targets]:
    meta = snapshot.meta[f"{role}.json"]
    data = _read(store, f"{meta.version}.{role}.json")
    meta.verify_length_and_hashes(data)
    return Metadata[Targets].from_bytes(data)


def _holds(state: State, role: str, root: Root) -> bool:
    try:
        _metadata(state, role, root)
    except RepositoryError:
        return False
    return True


def _metadata(state: State, role: str, root: Root) -> None:
    known: dict[str, Metadata[Any]] = {
        TIMESTAMP: state.timestamp,
        SNAPSHOT: state.snapshot,
        TARGETS: state.targets,
    }
    metadata = known[role]
    root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)


def _read(store: Store, name: str) -> bytes:
    data = store.get(f"{METADATA}/{name}")
    if data is None:
        raise PublisherError(
            f"the registry has no {name}",
            where=f"{METADATA}/{name}",
            next_step="restore metadata/ from a copy of the registry",
        )
    return data
