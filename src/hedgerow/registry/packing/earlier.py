"""Versions that were published before: where their chunks lie, and their bytes, to make patches from.

What the store says of them is read strictly but not by signatures: a store that lies can make a publisher pack badly,
never wrongly. Each chunk and each old block is held to its hash here, and again on the device.
"""

from __future__ import annotations

import bisect
import functools
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from hedgerow.errors import PublisherError
from hedgerow.registry import manifest as manifests
from hedgerow.registry import trust_names as names
from hedgerow.registry.manifest import Manifest
from hedgerow.registry.reference import version_key
from hedgerow.registry.store import ObjectStore
from hedgerow.registry.transfer import codec, make, packs
from hedgerow.registry.transfer.recipe import Recipe, check_agrees, pack_path

_TARGETS: Final = "targets"
# Patches and chunks of neighbours are read one after the other, by a few threads: each has its last chunks at hand.
_CHUNKS_KEPT: Final = 8


@dataclass(frozen=True)
class Earlier:
    """A published version: its manifest, the hash of that, and its recipe; ``content`` reads its files."""

    manifest: Manifest
    manifest_sha256: str
    recipe: Recipe
    content: Content


class Content(Protocol):
    """Reads bytes of an earlier version's files. Safe for threads."""

    def read(self, path: str, offset: int, size: int) -> bytes:
        """``size`` bytes of the file ``path`` from ``offset`` on.

        Raises:
            PublisherError: the store has other bytes than the recipe says.
        """


class FolderContent:
    """A version whose files lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str, offset: int, size: int) -> bytes:
        with (self._folder / path).open("rb") as file:
            file.seek(offset)
            return file.read(size)


class PackedContent:
    """A version whose chunks lie in packs; each pack that is needed is brought to ``scratch`` once."""

    def __init__(self, store: ObjectStore, recipe: Recipe, scratch: Path) -> None:
        self._store = store
        self._recipe = recipe
        self._scratch = scratch
        self._files = {file.path: (file, file.offsets()) for file in recipe.files}
        self._lock = threading.Lock()
        self._chunk = functools.lru_cache(maxsize=_CHUNKS_KEPT)(self._read_chunk)

    def read(self, path: str, offset: int, size: int) -> bytes:
        file, offsets = self._files[path]
        end = min(offset + size, file.size)
        parts = []
        place = bisect.bisect_right(offsets, offset) - 1
        while offset < end:
            chunk = self._chunk(path, place)
            begin = offset - offsets[place]
            parts.append(chunk[begin : begin + end - offset])
            offset += len(parts[-1])
            place += 1
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_chunk(self, path: str, place: int) -> bytes:
        segment = self._files[path][0].segments[place]
        sha256 = self._recipe.packs[segment.pack].sha256
        with self._pack(sha256).open("rb") as pack:
            pack.seek(segment.offset)
            data = pack.read(segment.length)
        return packs.unframe(data, size=segment.size, sha256=segment.sha256, where=f"{self._store.where}, {sha256}")

    def _pack(self, sha256: str) -> Path:
        local = self._scratch / sha256
        with self._lock:
            if not local.exists():
                _bring(self._store, f"{_TARGETS}/{pack_path(sha256)}", local)
        return local


def find(store: ObjectStore, manifest: Manifest, *, count: int, scratch: Path) -> list[Earlier]:
    """The ``count`` newest published versions before ``manifest``'s, newest first.

    One that the store cannot give whole is left out: it would be missing to no device, only to patches.
    """
    wanted = version_key(manifest.version)
    known = [each for each in versions(store, manifest.kind, manifest.name) if version_key(each) < wanted]
    found: list[Earlier] = []
    for version in sorted(known, key=version_key, reverse=True):
        if len(found) == count:
            break
        try:
            found.append(_read(store, manifest.kind, manifest.name, version, scratch))
        except (PublisherError, FileNotFoundError):
            continue
    return found


def versions(store: ObjectStore, kind: str, name: str) -> list[str]:
    """Versions of a bundle that lie in the store, signed or not, in no order."""
    folder = f"{_TARGETS}/{names.KINDS[kind]}/{name}/"
    found = (names.release(path.removeprefix(f"{_TARGETS}/")) for path in store.list(folder))
    return [each[2] for each in found if each is not None]


def stored_recipe(store: ObjectStore, manifest: Manifest) -> bytes | None:
    """The bytes of the recipe that the store has for this bundle; None where there is none that agrees with it."""
    path = f"{_TARGETS}/{names.target(manifest.kind, manifest.name, manifest.version, names.TRANSFER)}"
    data = store.get(path)
    if data is None:
        return None
    try:
        check_agrees(codec.decode(data, where=path), manifest)
    except PublisherError:
        return None
    return data


def _read(store: ObjectStore, kind: str, name: str, version: str, scratch: Path) -> Earlier:
    path = f"{_TARGETS}/{names.target(kind, name, version)}"
    data = store.get(path)
    if data is None:
        raise FileNotFoundError(path)
    manifest = manifests.decode(data, where=path)
    sha256 = manifests.digest(data)
    recipe = stored_recipe(store, manifest)
    if recipe is not None:
        decoded = codec.decode(recipe, where=path)
        for pack in decoded.packs:  # of a release that was withdrawn a sweep may have taken them
            if store.size(lies := f"{_TARGETS}/{pack_path(pack.sha256)}") != pack.size:
                raise FileNotFoundError(lies)
        return Earlier(manifest, sha256, decoded, PackedContent(store, decoded, scratch))
    folder = scratch / f"{name}@{version}"
    for file in manifest.files:
        _bring(store, f"{_TARGETS}/blobs/{file.sha256}", folder / file.path)
    return Earlier(manifest, sha256, make.describe(folder, manifest), FolderContent(folder))


def _bring(store: ObjectStore, path: str, local: Path) -> None:
    local.parent.mkdir(parents=True, exist_ok=True)
    part = local.with_name(f"{local.name}.part")
    with store.open(path) as blocks, part.open("wb") as file:
        for block in blocks:
            file.write(block)
    part.replace(local)
