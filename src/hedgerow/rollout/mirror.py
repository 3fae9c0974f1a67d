"""What of a stage's store a gateway lacks, and in which order it goes there. No IO but reading the store.

- The order is that of every copy of a registry (``registry.stores.copying``): what is named by its content, then what
  names it, the timestamp last. At every moment a device that reads the mirror finds all that its metadata names.
- A pack is named by its hash: one of the right name and size is the right one, for it got its name when it was whole.
  Everything else is compared by hash.
- Only what devices read goes there: no whole files, which a publisher keeps for itself, no candidates, no log.
- Nothing is ever removed: a device may be in the middle of the version before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hedgerow.errors import PublisherError, UsageError
from hedgerow.registry import blobs
from hedgerow.registry.store import Entry, ObjectStore
from hedgerow.registry.stores import copying

_READ_BY_DEVICES = ("metadata/", "targets/")


@dataclass(frozen=True)
class StoreFile:
    """A file of the store: ``path`` below its root, ``size`` in bytes, ``sha256`` of its content."""

    path: str
    size: int
    sha256: str


def scan(store: ObjectStore) -> list[StoreFile]:
    """Every file of ``store`` that devices read.

    Raises:
        UsageError: There is no registry in it.
    """
    if store.size("metadata/timestamp.json") is None:
        raise UsageError(
            "the registry has no metadata yet",
            where=store.where,
            next_step="hedgerow registry init, then hedgerow registry publish BUNDLE",
        )
    found = (entry for folder in _READ_BY_DEVICES for entry in store.entries(folder))
    return [_describe(store, entry) for entry in found if not entry.path.startswith(f"{blobs.FOLDER}/")]


def _describe(store: ObjectStore, entry: Entry) -> StoreFile:
    named = copying.named_by_content(entry.path)
    if named is not None:
        return StoreFile(entry.path, entry.size, named)
    data = store.get(entry.path)
    if data is None:
        raise PublisherError("a file vanished while the registry was read", where=f"{store.where}, {entry.path}")
    return StoreFile(entry.path, len(data), hashlib.sha256(data).hexdigest())


def missing(store: Iterable[StoreFile], mirror: Mapping[str, tuple[int, str | None]]) -> list[StoreFile]:
    """What ``mirror`` (path → size and hash, None for packs) lacks, in the order in which it must go there."""
    return sorted((file for file in store if not _has(mirror.get(file.path), file)), key=_order)


def _has(there: tuple[int, str | None] | None, file: StoreFile) -> bool:
    return there is not None and there[0] == file.size and there[1] in {None, file.sha256}


def _order(file: StoreFile) -> tuple[bool, int, str]:
    by_content = copying.named_by_content(file.path) is not None
    return not by_content, copying.order(file.path) or 0, file.path
