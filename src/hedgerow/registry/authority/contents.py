"""What a release consists of beside its metadata: brought from a folder, or from another stage's store by hash."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import TargetFile

from hedgerow.errors import PublisherError
from hedgerow.registry import blobs, manifest
from hedgerow.registry import trust_names as names
from hedgerow.registry.bundle import Bundle
from hedgerow.registry.packing.named import named_packs
from hedgerow.registry.store import ObjectStore
from hedgerow.registry.transfer import codec
from hedgerow.registry.transfer.recipe import Recipe, pack_path

TARGETS = "targets"

Packer = Callable[[ObjectStore, Bundle], bytes]
"""Cuts a bundle into packs, brings them to the store, and returns the bytes of its recipe."""


@dataclass(frozen=True)
class Contents:
    """Target paths of a release with their content; ``new_bytes`` were written to the store."""

    files: dict[str, bytes]
    new_bytes: int


def put(store: ObjectStore, bundle: Bundle, packer: Packer | None) -> Contents:
    """Bring a verified bundle to the store; nothing names it yet, so devices do not see it."""
    of = bundle.manifest
    written = blobs.put(store, bundle)
    files = {
        names.target(of.kind, of.name, of.version): (bundle.directory / manifest.FILE_NAME).read_bytes(),
    }
    if packer is not None:
        files[names.target(of.kind, of.name, of.version, names.TRANSFER)] = packer(store, bundle)
    return Contents(files, written + put_targets(store, files))


def put_targets(store: ObjectStore, files: dict[str, bytes]) -> int:
    """Write manifests and recipes that are not there yet, or damaged."""
    written = 0
    for path, data in files.items():
        if store.get(f"{TARGETS}/{path}") != data:
            store.put(f"{TARGETS}/{path}", data)
            written += len(data)
    return written


def read(store: ObjectStore, path: str, file: TargetFile) -> bytes:
    """A target's content, as the metadata says it is.

    Raises:
        PublisherError: it is missing or another.
    """
    data = store.get(f"{TARGETS}/{path}")
    if data is None or len(data) != file.length or hashlib.sha256(data).hexdigest() != file.hashes.get("sha256"):
        raise PublisherError(
            f"{path} is {'missing' if data is None else 'damaged'} in the registry",
            where=f"{TARGETS}/{path}",
            next_step="stage the bundle again from its folder: hedgerow registry stage FOLDER --stage STAGE",
        )
    return data


def check_packs(store: ObjectStore, recipe: Recipe) -> None:
    """Hold the recipe to what is there: a sweep may have given up what a withdrawn release leads to.

    Raises:
        PublisherError: a pack is missing.
    """
    for pack in named_packs(store, recipe):
        path = f"{TARGETS}/{pack_path(pack.sha256)}"
        if store.size(path) != pack.size:
            raise PublisherError(
                f"a pack of {recipe.reference} is missing in the registry",
                where=f"{store.where}, {path}",
                next_step="stage the bundle again from its folder: hedgerow registry stage FOLDER --stage STAGE",
            )


def copy(source: ObjectStore, target: ObjectStore, files: dict[str, TargetFile]) -> Contents:
    """Bring a release of another stage, file by file by its hash: a byte that was changed on the way is found.

    Raises:
        PublisherError: something is missing or damaged in ``source``.
    """
    found = {path: read(source, path, file) for path, file in files.items()}
    written = 0
    for path, size, sha256 in _held(source, found):
        if not target.holds(path, size=size, sha256=sha256):
            _copy_file(source, target, path, size, sha256)
            written += size
    return Contents(found, written + put_targets(target, found))


def _held(source: ObjectStore, found: dict[str, bytes]) -> Iterator[tuple[str, int, str]]:
    """Path, size and SHA-256 of all that manifests and recipes lead to and ``source`` has."""
    for path, data in found.items():
        name = path.rpartition("/")[2]
        if name == names.MANIFEST:
            files = manifest.decode(data, where=path).files
            yield from ((blobs.path(file.sha256), file.size, file.sha256) for file in files)
        elif name == names.TRANSFER:
            wanted = {(pack.sha256, pack.size) for pack in named_packs(source, codec.decode(data, where=path))}
            yield from ((f"{TARGETS}/{pack_path(sha256)}", size, sha256) for sha256, size in sorted(wanted))


def _copy_file(source: ObjectStore, target: ObjectStore, path: str, size: int, sha256: str) -> None:
    with tempfile.TemporaryDirectory(prefix="hedgerow-promote-") as folder:
        whole = Path(folder) / "content"
        try:
            with source.open(path) as blocks, whole.open("wb") as file:
                digest = _write(blocks, file.write)
        except FileNotFoundError as error:
            raise PublisherError("a file of the release is missing", where=path) from error
        if whole.stat().st_size != size or digest != sha256:
            raise PublisherError("a file of the release is damaged", where=path)
        target.put_file(path, whole)


def _write(blocks: Iterable[bytes], write: Callable[[bytes], object]) -> str:
    hasher = hashlib.sha256()
    for block in blocks:
        hasher.update(block)
        write(block)
    return hasher.hexdigest()
