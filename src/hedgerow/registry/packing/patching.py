"""Patches from one earlier version: each segment that it lacks, tried against the bytes that it most likely was."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from hedgerow.registry.packing.cutting import AHEAD, CutFile
from hedgerow.registry.packing.earlier import Earlier
from hedgerow.registry.packing.parallel import ordered
from hedgerow.registry.transfer import matching, patches
from hedgerow.registry.transfer.make import NOWHERE
from hedgerow.registry.transfer.matching import Pair
from hedgerow.registry.transfer.packs import PackWriter
from hedgerow.registry.transfer.patches import Patch
from hedgerow.registry.transfer.recipe import SCHEMA, Block, File, PatchIndex, Recipe, Segment


@dataclass(frozen=True)
class Patched:
    """All patches from one version: ``size`` bytes together; their packs are complete."""

    earlier: Earlier
    index: PatchIndex
    size: int


def patch(
    directory: Path,
    name: str,
    version: str,
    files: Sequence[CutFile],
    earlier: Earlier,
    *,
    folder: Path,
    pool: Executor,
) -> Patched | None:
    """Make the patches that lead from ``earlier`` to the bundle in ``directory``; None where none is worth it.

    Packs are written below ``folder``.

    Raises:
        PublisherError: the store has other bytes of ``earlier`` than its recipe says.
    """
    new = _described(name, version, files)
    offsets = [file.offsets() for file in new.files]

    def made(pair: Pair) -> Patch | None:
        file = new.files[pair.file]
        segment = file.segments[pair.segment]
        with (directory / file.path).open("rb") as content:
            content.seek(offsets[pair.file][pair.segment])
            after = content.read(segment.size)
        before = earlier.content.read(pair.old_path, pair.old_offset, pair.old_size)
        worth = files[pair.file].cuts[pair.segment].place.length
        return patches.make(before, after, dtype=pair.dtype, worth=worth)

    pairs = matching.match(new, earlier.recipe)
    paths = sorted({pair.old_path for pair in pairs})
    blocks: list[Block] = []
    with PackWriter(folder) as writer:
        for pair, patched in ordered(pool, made, pairs, ahead=AHEAD):
            if patched is not None:
                place = writer.add(patched.data)
                blocks.append(
                    Block(
                        file=pair.file,
                        segment=pair.segment,
                        old=paths.index(pair.old_path),
                        old_offset=pair.old_offset,
                        old_size=pair.old_size,
                        old_sha256=patched.old_sha256,
                        transform=patched.transform,
                        pack=place.pack,
                        offset=place.offset,
                        length=place.length,
                    )
                )
        written = writer.close()
    if not blocks:
        return None
    index = PatchIndex(SCHEMA, earlier.manifest.version, written, tuple(paths), tuple(blocks))
    return Patched(earlier, index, sum(block.length for block in blocks))


def _described(name: str, version: str, files: Sequence[CutFile]) -> Recipe:
    """The new version as ``matching`` reads it: segments without their places."""
    described = tuple(
        File(
            file.path,
            file.sha256,
            file.size,
            tuple(Segment(cut.sha256, cut.size, 0, 0, cut.size) for cut in file.cuts),
            file.tensors,
        )
        for file in files
    )
    return Recipe(SCHEMA, name, version, (NOWHERE,), described)
