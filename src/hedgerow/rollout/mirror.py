"""What of the folder store a gateway lacks, and in which order it goes there. No IO but reading the store.

- Data first, metadata after it, the timestamp last: at every moment a device
  that reads the mirror finds all that its metadata names.
- A blob is named by its hash: one of the right name and size is the right one,
  for it got its name when it was whole. Everything else is compared by hash.
- Nothing is ever removed: a device may be in the middle of the version before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hedgerow.errors import UsageError

BLOBS = PurePosixPath("targets/blobs")


@dataclass(frozen=True)
class StoreFile:
    """A file of the store: ``path`` below its root, ``size`` in bytes, ``sha256`` of its content."""

    path: str
    size: int
    sha256: str


def scan(store: Path) -> list[StoreFile]:
    """Every file of the folder store ``store``.

    Raises:
        UsageError: There is no store.
    """
    if not (store / "metadata" / "timestamp.json").is_file():
        raise UsageError(
            "the registry has no metadata yet",
            where=str(store),
            next_step="hedgerow registry init, then hedgerow registry publish BUNDLE",
        )
    files = (path for part in ("targets", "metadata") for path in (store / part).rglob("*") if path.is_file())
    return [_describe(store, path) for path in files if not path.name.startswith(".")]


def _describe(store: Path, path: Path) -> StoreFile:
    relative = path.relative_to(store).as_posix()
    named_by_hash = PurePosixPath(relative).parent == BLOBS
    digest = path.name if named_by_hash else hashlib.sha256(path.read_bytes()).hexdigest()
    return StoreFile(relative, path.stat().st_size, digest)


def missing(store: list[StoreFile], mirror: Mapping[str, tuple[int, str | None]]) -> list[StoreFile]:
    """What ``mirror`` (path → size and hash, None for blobs) lacks, in the order in which it must go there."""
    return sorted((file for file in store if not _has(mirror.get(file.path), file)), key=_order)


def _has(there: tuple[int, str | None] | None, file: StoreFile) -> bool:
    return there is not None and there[0] == file.size and there[1] in {None, file.sha256}


def _order(file: StoreFile) -> tuple[int, str]:
    path = PurePosixPath(file.path)
    if path.parts[0] == "targets":
        return (0 if path.parent == BLOBS else 1), file.path
    # A new root must be there before anything signed by its keys; a snapshot names all roles, the timestamp it.
    role = path.name.removesuffix(".json").rpartition(".")[2]
    return {"root": 2, "snapshot": 4, "timestamp": 5}.get(role, 3), file.path
