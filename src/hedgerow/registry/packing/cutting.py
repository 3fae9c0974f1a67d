"""From a bundle's folder to segments: cut, find what earlier packs hold, compress the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hedgerow.errors import PublisherError
from hedgerow.registry.manifest import Manifest
from hedgerow.registry.packing.parallel import ordered
from hedgerow.registry.transfer import chunking, layouts, packs
from hedgerow.registry.transfer.chunking import Chunk
from hedgerow.registry.transfer.make import NOWHERE
from hedgerow.registry.transfer.packs import PackWriter, Place
from hedgerow.registry.transfer.recipe import Pack, Recipe, Tensor


@dataclass(frozen=True)
class Kept:
    """Where an earlier version's pack holds a chunk; bytes from ``offset`` on."""

    pack: Pack
    offset: int
    length: int


@dataclass(frozen=True)
class Cut:
    """One segment before packs have names: in an earlier pack (``Kept``), or where the writer put it."""

    sha256: str
    size: int
    place: Kept | Place


@dataclass(frozen=True)
class CutFile:
    """A file of the bundle as segments in order, with its tensors."""

    path: str
    sha256: str
    size: int
    cuts: tuple[Cut, ...]
    tensors: tuple[Tensor, ...]


class Known:
    """Chunks that earlier versions' packs hold; a pack is looked at in the store before it is relied upon."""

    def __init__(self, recipes: Iterable[Recipe], is_there: Callable[[Pack], bool]) -> None:
        self._is_there = is_there
        self._looked: dict[str, bool] = {}
        self._places: dict[str, list[Kept]] = {}
        for recipe in recipes:
            for file in recipe.files:
                for segment in file.segments:
                    pack = recipe.packs[segment.pack]
                    if pack != NOWHERE:
                        kept = Kept(pack, segment.offset, segment.length)
                        self._places.setdefault(segment.sha256, []).append(kept)

    def find(self, sha256: str) -> Kept | None:
        """A place of this chunk whose pack the store has whole."""
        for kept in self._places.get(sha256, ()):
            if kept.pack.sha256 not in self._looked:
                self._looked[kept.pack.sha256] = self._is_there(kept.pack)
            if self._looked[kept.pack.sha256]:
                return kept
        return None


# Chunks under way at one time; a chunk has 1 MiB as made, 8 MiB at the most.
AHEAD: Final = 16


def cut(
    directory: Path,
    manifest: Manifest,
    *,
    known: Known,
    writer: PackWriter,
    pool: Executor,
    on_bytes: Callable[[int], None] | None = None,
) -> list[CutFile]:
    """Cut every file of the bundle; chunks that no earlier pack holds are written, each once. Files as the manifest's.

    Raises:
        PublisherError: a file is not what the manifest says.
    """
    tensors = layouts.of_folder(directory, [file.path for file in manifest.files])
    placed: dict[str, Kept | Place] = {}
    found = []
    for file in manifest.files:
        layout = tensors.get(file.path, ())
        whole = hashlib.sha256()
        cuts = []
        with (directory / file.path).open("rb") as content:

            def framed(chunk: Chunk) -> bytes | None:
                return None if chunk.sha256 in placed or known.find(chunk.sha256) else packs.frame(chunk.data)

            for chunk, frame in ordered(pool, framed, chunking.cut(content, file.size, layout), ahead=AHEAD):
                whole.update(chunk.data)
                # Equal chunks may be under way together: the first one's frame is written.
                place = placed.get(chunk.sha256) or known.find(chunk.sha256)
                if place is None:
                    place = writer.add(frame or packs.frame(chunk.data))
                placed[chunk.sha256] = place
                cuts.append(Cut(chunk.sha256, len(chunk.data), place))
                if on_bytes is not None:
                    on_bytes(len(chunk.data))
        if whole.hexdigest() != file.sha256:
            raise PublisherError(
                f"{file.path} is not what the manifest says: it changed while it was published",
                where=str(directory / file.path),
                next_step="leave the bundle alone while it is published, and run it again",
            )
        found.append(CutFile(file.path, file.sha256, file.size, tuple(cuts), layout))
    return found
