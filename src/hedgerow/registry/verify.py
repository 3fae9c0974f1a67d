"""Judge a whole registry as a device would: from its first root, every release, every byte that one leads to."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hedgerow import atomic
from hedgerow.errors import HedgerowError, PublisherError, UsageError
from hedgerow.registry import blobs
from hedgerow.registry import manifest as manifests
from hedgerow.registry import trust_names as names
from hedgerow.registry.client.trusted import Trusted
from hedgerow.registry.manifest import Manifest
from hedgerow.registry.packing.named import named_packs
from hedgerow.registry.reference import Reference
from hedgerow.registry.source import FolderSource, Source
from hedgerow.registry.store import FolderStore, ObjectStore
from hedgerow.registry.transfer import codec
from hedgerow.registry.transfer.recipe import check_agrees, pack_path

_ROOT = "metadata/1.root.json"
_AGAIN = "stage the bundle again from its folder: hedgerow registry stage FOLDER"


class StoreSource:
    """A store as a device reads it; ``registry.source.Source``."""

    def __init__(self, store: ObjectStore) -> None:
        self.url = store.where
        self._store = store

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Iterator[bytes]]:
        with self._store.open(path) as blocks:
            yield blocks


def trusted(store: Path | ObjectStore, reference: Reference, *, kind: str = "model") -> tuple[Manifest, bytes]:
    """A release's manifest and its bytes, vouched for by the metadata in ``store`` (a folder, or any store).

    Raises:
        UsageError: there is no registry.
        RefusedError: the signatures do not hold, or the registry has no such release.
        PublisherError: it is vouched for, and missing.
    """
    with _device(_opened(store)) as device:
        return _manifest(device, reference, kind)


def fetchable(store: Path | ObjectStore, reference: Reference, *, kind: str = "model") -> tuple[Manifest, bytes]:
    """As ``trusted``; and the recipe is vouched for, too, and every pack that it leads to is there with its size.

    Raises:
        UsageError, RefusedError: as ``trusted``.
        PublisherError: something that a device would fetch is missing or cut off.
    """
    place = _opened(store)
    with _device(place) as device:
        manifest, data = _manifest(device, reference, kind)
        for each in _packs(place, device, manifest):
            _check_size(place, each)
        return manifest, data


def verify(
    store: Path | ObjectStore,
    references: Sequence[Reference],
    *,
    kind: str = "model",
    on_bytes: Callable[[int], None] | None = None,
) -> dict[Reference, list[HedgerowError]]:
    """Check these releases of one kind: signatures, files, recipe and packs; what is wrong with each, or nothing."""
    place = _opened(store)
    try:
        with _device(place) as device:
            return {each: _wrong(place, device, each, kind, on_bytes) for each in references}
    except HedgerowError as error:  # no registry at all
        return {each: [error] for each in references}


def _opened(store: Path | ObjectStore) -> ObjectStore:
    return FolderStore(store) if isinstance(store, Path) else store


@contextlib.contextmanager
def _device(store: ObjectStore) -> Iterator[Trusted]:
    """What a device believes that was given this registry's first root just now."""
    root = store.get(_ROOT)
    if root is None:
        raise UsageError("there is no registry", where=store.where, next_step="hedgerow registry init")
    source: Source = FolderSource(store.root) if isinstance(store, FolderStore) else StoreSource(store)
    with tempfile.TemporaryDirectory(prefix="hedgerow-trust-") as trust:
        atomic.write_bytes(Path(trust) / "root.json", root)
        yield Trusted(source, Path(trust))


def _manifest(device: Trusted, reference: Reference, kind: str) -> tuple[Manifest, bytes]:
    data = device.manifest(reference, kind)
    return manifests.decode(data, where=names.target(kind, reference.name, reference.version)), data


def _wrong(
    store: ObjectStore, device: Trusted, reference: Reference, kind: str, on_bytes: Callable[[int], None] | None
) -> list[HedgerowError]:
    try:
        manifest, _ = _manifest(device, reference, kind)
    except HedgerowError as error:
        return [error]
    wanted = [_Wanted(file.path, blobs.path(file.sha256), file.size, file.sha256) for file in manifest.files]
    found: list[HedgerowError] = []
    try:
        wanted += _packs(store, device, manifest)
    except HedgerowError as error:
        found.append(error)
    for each in wanted:
        try:
            _check(store, each, on_bytes)
        except PublisherError as error:
            found.append(error)
    return found


@dataclass(frozen=True)
class _Wanted:
    """A file that must lie at ``path`` with just this content; ``what`` people call it."""

    what: str
    path: str
    size: int
    sha256: str


def _packs(store: ObjectStore, device: Trusted, manifest: Manifest) -> list[_Wanted]:
    """All that the recipe of a release leads to."""
    recipe = codec.decode(device.transfer(_reference(manifest), manifest.kind), where=names.TRANSFER)
    check_agrees(recipe, manifest)
    return [
        _Wanted(f"pack {each.sha256[:12]} of {manifest.reference}", _pack(each.sha256), each.size, each.sha256)
        for each in named_packs(store, recipe)
    ]


def _pack(sha256: str) -> str:
    return f"targets/{pack_path(sha256)}"


def _reference(manifest: Manifest) -> Reference:
    return Reference(manifest.name, manifest.version)


def _check_size(store: ObjectStore, wanted: _Wanted) -> None:
    where = f"{store.where}, {wanted.path}"
    actual = store.size(wanted.path)
    if actual is None:
        raise PublisherError(f"{wanted.what} is missing", where=where, next_step=_AGAIN)
    if actual != wanted.size:
        kind = "truncated" if actual < wanted.size else "too long"
        raise PublisherError(
            f"{wanted.what} is {kind}: {actual} bytes, signed were {wanted.size}", where=where, next_step=_AGAIN
        )


def _check(store: ObjectStore, wanted: _Wanted, on_bytes: Callable[[int], None] | None) -> None:
    """Hold one file to what was signed; the size first, because that costs nothing."""
    _check_size(store, wanted)
    hasher = hashlib.sha256()
    with store.open(wanted.path) as blocks:
        for block in blocks:
            hasher.update(block)
            if on_bytes is not None:
                on_bytes(len(block))
    if hasher.hexdigest() != wanted.sha256:
        raise PublisherError(
            f"{wanted.what} was altered: sha256 {hasher.hexdigest()}, signed was {wanted.sha256}",
            where=f"{store.where}, {wanted.path}",
            next_step=_AGAIN,
        )
