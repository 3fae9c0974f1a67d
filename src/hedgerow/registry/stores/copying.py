"""Bring a whole registry from one store to another: content first, then metadata, the timestamp last.

- What is there already is not sent again. A cut leaves the target as devices saw it before, with files that nothing
  names yet; run again, it goes on.
- The target never goes back: one with newer metadata, or with the metadata of another registry, is refused.
- Candidates (``staged/``) are a publisher's own business and are not copied.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tuf.api.metadata import Metadata, Timestamp
from tuf.api.serialization import DeserializationError

from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.registry.store import Entry, ObjectStore

_TIMESTAMP: Final = "metadata/timestamp.json"
_ROOT: Final = "metadata/1.root.json"
_THREADS: Final = 4
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Copied:
    """Files and bytes that were sent; ``kept`` files were there already."""

    files: int
    bytes: int
    kept: int


def copy(source: ObjectStore, target: ObjectStore, *, on_bytes: Callable[[int], None] | None = None) -> Copied:
    """Bring ``source``'s registry to ``target``; ``on_bytes`` is called with bytes that were sent or found there.

    Raises:
        UsageError: ``source`` is no registry.
        RefusedError: ``target`` is newer or another registry, or somebody works on one of them.
        PublisherError: a file of ``source`` is not what its name says.
    """
    with source.lock(), target.lock():
        _check_forward(source, target)
        entries = list(source.entries(""))
        by_content = [entry for entry in entries if named_by_content(entry.path) is not None]
        others = [entry for entry in entries if order(entry.path) is not None and named_by_content(entry.path) is None]
        others.sort(key=lambda entry: (order(entry.path), entry.path))
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="copy") as pool:
            sent = list(pool.map(lambda entry: _bring(source, target, entry, on_bytes), by_content))
        sent += [_replace(source, target, entry, on_bytes) for entry in others]
    return Copied(sum(size is not None for size in sent), sum(size or 0 for size in sent), sent.count(None))


def _check_forward(source: ObjectStore, target: ObjectStore) -> None:
    ours, theirs = source.get(_TIMESTAMP), target.get(_TIMESTAMP)
    if ours is None:
        raise UsageError("there is no registry to copy", where=source.where, next_step="hedgerow registry init")
    if theirs is None:
        return
    if source.get(_ROOT) != target.get(_ROOT):
        raise RefusedError(
            "another registry lies there: its first root is not this one's",
            where=target.where,
            next_step="copy to an empty place; devices of the other registry would trust nothing of this one",
        )
    mine, present = _version(source, ours), _version(target, theirs)
    if present > mine or (present == mine and theirs != ours):
        raise RefusedError(
            f"the registry there has timestamp {present}, this one {mine}: devices accept no step back",
            where=target.where,
            next_step="publish to that registry itself, or bring this one up to date first",
        )


def _version(store: ObjectStore, data: bytes) -> int:
    try:
        return Metadata[Timestamp].from_bytes(data).signed.version
    except DeserializationError as error:
        raise PublisherError(
            f"the timestamp cannot be read: {error}",
            where=f"{store.where}, {_TIMESTAMP}",
            next_step="hedgerow registry verify shows what is wrong; restore the registry from its backup",
        ) from error


def named_by_content(path: str) -> str | None:
    """The content's hash where the path is made of it; such files go before all others."""
    match path.split("/"):
        case ["targets", "blobs", sha256] | ["targets", "packs", _, sha256] if _SHA256.fullmatch(sha256):
            return sha256
    return None


def order(path: str) -> int | None:
    """When a file is written: what names others after them, the timestamp last. None: not copied."""
    folder, _, name = path.partition("/")
    match folder, name:
        case "targets", _:
            return 0
        case "log", _:
            return 1
        case "metadata", "timestamp.json":
            return 4
        case "metadata", _:
            # A device takes a new root at once and then wants what its keys signed: as late as can be.
            return 3 if name.endswith(".root.json") else 2
    return None


def _bring(
    source: ObjectStore, target: ObjectStore, entry: Entry, on_bytes: Callable[[int], None] | None
) -> int | None:
    """Bytes sent; None where it was there."""
    sha256 = named_by_content(entry.path) or ""
    there = target.holds(entry.path, size=entry.size, sha256=sha256)
    if not there:
        with tempfile.TemporaryDirectory(prefix="hedgerow-copy-") as folder:
            local = Path(folder) / "content"
            with source.open(entry.path) as blocks:
                actual = _write(local, blocks)
            if actual != sha256:
                raise PublisherError(
                    f"a file is not what its name says: sha256 {actual}",
                    where=f"{source.where}, {entry.path}",
                    next_step="publish the bundle again that it belongs to, then copy again",
                )
            target.put_file(entry.path, local)
    if on_bytes is not None:
        on_bytes(entry.size)
    return None if there else entry.size


def _replace(
    source: ObjectStore, target: ObjectStore, entry: Entry, on_bytes: Callable[[int], None] | None
) -> int | None:
    data = source.get(entry.path)
    if data is None:
        raise PublisherError("a file vanished while it was copied", where=f"{source.where}, {entry.path}")
    there = target.get(entry.path) == data
    if not there:
        target.put(entry.path, data)
    if on_bytes is not None:
        on_bytes(len(data))
    return None if there else len(data)


def _write(path: Path, blocks: Iterable[bytes]) -> str:
    hasher = hashlib.sha256()
    with path.open("wb") as file:
        for block in blocks:
            hasher.update(block)
            file.write(block)
    return hasher.hexdigest()
