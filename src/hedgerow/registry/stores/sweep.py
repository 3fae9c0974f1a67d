"""Find and remove what no signed metadata leads to: what killed publishers left, and what old releases alone used.

What stays, whatever its age:

- everything outside ``targets/``: metadata, candidates, the promotion log;
- every target that a snapshot names which is in force, or was and has not expired: a device may hold that one still;
- every target that a staged candidate names: somebody may approve it tomorrow;
- every file, pack and patch that those manifests and recipes lead to.

With ``withdrawn``, releases whose approval was taken back lead to nothing any more, once no such snapshot and no
candidate approves them. The log says that they were withdrawn, which tells them from those that nobody has approved
yet. Their manifests and recipes stay, because the builder's word does: the version never comes back with other content.

What is younger than the grace period stays too, named or not: its publisher may be at work just now. Nothing is removed
while anything that should be there is missing or damaged, because then nobody knows what it named.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tuf.api.metadata import Metadata, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from hedgerow.errors import HedgerowError, PublisherError, UsageError
from hedgerow.registry import manifest as manifests
from hedgerow.registry import trust_names as names
from hedgerow.registry.authority import log
from hedgerow.registry.packing.named import named_packs
from hedgerow.registry.store import Entry, ObjectStore
from hedgerow.registry.transfer import codec
from hedgerow.registry.transfer.recipe import pack_path

# A publish of many gigabytes over a slow line ends within a day, or its publisher is asked to run it again.
DEFAULT_GRACE_S: Final = 24 * 3600.0
_TARGETS: Final = "targets"
_METADATA: Final = "metadata"
_STAGED: Final = "staged"
_BLOBS: Final = f"{_TARGETS}/blobs"


@dataclass(frozen=True)
class Sweep:
    """``remove``: in the order of removal. ``young``: unnamed, within the grace period. ``named``: kept."""

    remove: tuple[Entry, ...]
    young: tuple[Entry, ...]
    named: tuple[Entry, ...]


def plan(store: ObjectStore, *, now: datetime, grace_s: float = DEFAULT_GRACE_S, withdrawn: bool = False) -> Sweep:
    """What would be removed; changes nothing. ``now`` is aware, for the snapshots' expiry.

    Raises:
        UsageError: there is no registry.
        PublisherError: something that should be there is missing or damaged.
    """
    live = _live(store, now, withdrawn=withdrawn)
    remove, young, named = [], [], []
    for entry in store.entries(f"{_TARGETS}/"):
        if entry.path in live:
            named.append(entry)
        elif entry.age_s < grace_s:
            young.append(entry)
        else:
            remove.append(entry)
    # Manifests and recipes before what they name: cut off in between, none is left that names what is gone.
    remove.sort(key=lambda entry: (entry.path.rpartition("/")[2] not in names.RELEASE_FILES, entry.path))
    return Sweep(tuple(remove), tuple(young), tuple(named))


def carry_out(
    store: ObjectStore,
    *,
    now: datetime,
    grace_s: float = DEFAULT_GRACE_S,
    withdrawn: bool = False,
    on_removed: Callable[[Entry], None] | None = None,
) -> tuple[Sweep, int]:
    """Remove it, under the store's lock, planned anew there; also uploads that were never finished, and how many.

    Raises:
        RefusedError: somebody publishes right now.
        UsageError, PublisherError: as ``plan``.
    """
    with store.lock():
        sweep = plan(store, now=now, grace_s=grace_s, withdrawn=withdrawn)
        for entry in sweep.remove:
            store.delete(entry.path)
            if on_removed is not None:
                on_removed(entry)
        return sweep, store.discard_unfinished(grace_s)


def _live(store: ObjectStore, now: datetime, *, withdrawn: bool) -> set[str]:
    """Every path below ``targets/`` that must stay."""
    live: set[str] = set()
    named = _named(store, now)
    spent = _withdrawn(store) - {_folder(path) for role, path, _ in named if names.is_approve(role)}
    for path, sha256 in sorted({(path, sha256) for _, path, sha256 in named}):
        whole = f"{_TARGETS}/{path}"
        live.add(whole)
        if path.rpartition("/")[2] not in names.RELEASE_FILES:
            continue
        data = store.get(whole)
        if data is None or hashlib.sha256(data).hexdigest() != sha256:
            raise _broken(store, f"{path} is {'missing' if data is None else 'not what was signed'}", whole)
        if _folder(path) not in spent:
            live.update(_leads_to(store, path, data))
        elif not withdrawn:
            # A sweep before this one may have taken what it leads to.
            with contextlib.suppress(PublisherError):
                live.update(_leads_to(store, path, data))
    return live


def _withdrawn(store: ObjectStore) -> set[str]:
    """Folders of the releases whose last word in the promotion log is that they were taken back."""
    timestamp = Metadata[Timestamp].from_bytes(store.get(f"{_METADATA}/timestamp.json") or b"").signed
    data = store.get(f"{_METADATA}/{timestamp.snapshot_meta.version}.snapshot.json") or b""
    last: dict[str, str] = {}
    for entry in log.read(store, log.anchor(Metadata[Snapshot].from_bytes(data).signed)):
        if entry.event.kind in names.KINDS:
            name, _, version = entry.event.subject.partition("@")
            last[names.folder(entry.event.kind, name, version)] = entry.event.what
    return {folder for folder, what in last.items() if what == "withdraw"}


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _leads_to(store: ObjectStore, path: str, data: bytes) -> Iterator[str]:
    where = f"{store.where}, {_TARGETS}/{path}"
    if path.endswith(f"/{names.MANIFEST}"):
        yield from (f"{_BLOBS}/{file.sha256}" for file in manifests.decode(data, where=where).files)
    else:
        recipe = codec.decode(data, where=where)
        yield from (f"{_TARGETS}/{pack_path(pack.sha256)}" for pack in named_packs(store, recipe))


def _named(store: ObjectStore, now: datetime) -> set[tuple[str, str, str]]:
    """Role, target path and SHA-256 of all that a snapshot which a device may hold names, or a candidate."""
    found: set[tuple[str, str, str]] = set()
    for snapshot in _snapshots(store, now):
        for file, meta in snapshot.meta.items():
            found |= _targets(store, f"{_METADATA}/{meta.version}.{file}", file)
    for path in store.list(f"{_STAGED}/"):
        if path.endswith(".json"):
            found |= _targets(store, path, path.removeprefix(f"{_STAGED}/"))
    return found


def _snapshots(store: ObjectStore, now: datetime) -> Iterator[Snapshot]:
    data = store.get(f"{_METADATA}/timestamp.json")
    if data is None:
        raise UsageError("there is no registry", where=store.where, next_step="hedgerow registry init")
    path = f"{_METADATA}/timestamp.json"
    in_force = False
    try:
        current = Metadata[Timestamp].from_bytes(data).signed.snapshot_meta.version
        for path in store.list(f"{_METADATA}/"):
            number, _, rest = path.removeprefix(f"{_METADATA}/").partition(".")
            if rest == "snapshot.json" and number.isdigit():
                snapshot = Metadata[Snapshot].from_bytes(store.get(path) or b"").signed
                in_force |= int(number) == current
                if int(number) == current or snapshot.expires > now:
                    yield snapshot
    except DeserializationError as error:
        raise _broken(store, f"metadata cannot be read: {error}", path) from error
    if not in_force:
        raise _broken(store, "the snapshot in force is missing", f"{_METADATA}/{current}.snapshot.json")


def _targets(store: ObjectStore, path: str, file: str) -> set[tuple[str, str, str]]:
    role = file.removesuffix(".json")
    data = store.get(path)
    if data is None:
        raise _broken(store, "a snapshot names metadata that is missing", path)
    try:
        signed: dict[str, Any] = json.loads(data)["signed"]
        targets = Targets.from_dict(signed).targets
        return {(role, target, info.hashes["sha256"]) for target, info in targets.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise _broken(store, f"metadata cannot be read: {error}", path) from error


def _broken(store: ObjectStore, what: str, path: str) -> HedgerowError:
    return PublisherError(
        f"the registry is damaged, so nothing is removed from it: {what}",
        where=f"{store.where}, {path}",
        next_step="publish what is damaged again, or restore it; hedgerow registry verify shows what is wrong",
    )
