"""What a new version of a model costs to transfer, beside zstd, xdelta3, casync and bsdiff on the same pairs.

    python -m bench.registry_deltas [--pairs tail …] [--scale 1.0] [--rounds 3] [--no-peers] [--json]

Ours are all bytes that a device fetches: the recipe, the index of the patches, and of each segment what is smaller,
its patch or its chunk. CPU seconds are the median of the rounds. Ends with 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from bench import registry_delta_pairs as pairs
from bench import registry_delta_peers as peers
from bench.proof import Proof
from bench.registry_delta_real import Pair

from hedgerow.registry.bundle import hash_file
from hedgerow.registry.transfer import chunking, codec, layouts, matching, packs, patches
from hedgerow.registry.transfer.packs import PackWriter
from hedgerow.registry.transfer.recipe import Block, File, Offer, Pack, PatchIndex, Recipe, Segment, Tensor

DIFF_BAR_S, PATCH_BAR_S, CHUNKING_BAR = 1.0, 0.4, 4.0
_INT8_BYTES = 27 << 20  # what the bars in seconds are for; other sizes are held to their share


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Ours:
    """Bytes and CPU seconds; ``chunks`` is what would be fetched without patches."""

    size: int
    chunks: int
    diff_s: float
    patch_s: float


def measure(old: Path, new: Path, folder: Path) -> Ours:
    """Publish both, make the patches, apply them, and hold the result to the new file."""
    before = published(old, "1.0.0", None, folder / "old-packs").recipe
    start = time.process_time()
    after = published(new, "1.1.0", before, folder / "new-packs")
    index, blobs = patched(after.recipe, before, old, new, folder / "patches")
    json = codec.to_json(index)
    index_frame = packs.frame(json)
    diff_s = time.process_time() - start
    recipe = after.recipe
    if blobs:
        place = Segment(digest(json), len(json), len(recipe.packs), 0, len(index_frame))
        offer = Offer("1.0.0", "0" * 64, len(index.blocks), sum(map(len, blobs.values())), place)
        known_packs = (*recipe.packs, Pack(digest(index_frame), len(index_frame)))
        recipe = msgspec.structs.replace(recipe, packs=known_packs, patches=(offer,))
    metadata = len(codec.encode(recipe)) + (len(index_frame) if blobs else 0)
    chunks = sum(length for place, length in after.fresh.items() if place not in blobs)
    start = time.process_time()
    apply(recipe, index.blocks, blobs, old=old, new=new, out=folder / "out")
    patch_s = time.process_time() - start
    patches_size = sum(map(len, blobs.values()))
    return Ours(metadata + chunks + patches_size, metadata + sum(after.fresh.values()), diff_s, patch_s)


@dataclass(frozen=True)
class Published:
    """``fresh``: what each chunk takes that the version before has not, by file and segment."""

    recipe: Recipe
    fresh: dict[tuple[int, int], int]


def published(path: Path, version: str, before: Recipe | None, folder: Path) -> Published:
    """One file as chunks in packs; what ``before`` has stays where it lies."""
    size = path.stat().st_size
    tensors = layouts.of_folder(path.parent, [path.name]).get(path.name, ())
    old_packs = before.packs if before else ()
    known = {segment.sha256: segment for file in (before.files if before else ()) for segment in file.segments}
    segments: list[Segment] = []
    fresh: dict[tuple[int, int], int] = {}
    hasher = hashlib.sha256()
    with PackWriter(folder) as writer, path.open("rb") as file:
        for chunk in chunking.cut(file, size, tensors):
            hasher.update(chunk.data)
            if chunk.sha256 not in known:
                place = writer.add(packs.frame(chunk.data))
                known[chunk.sha256] = Segment(
                    chunk.sha256, len(chunk.data), place.pack + len(old_packs), place.offset, place.length
                )
                fresh[0, len(segments)] = place.length
            segments.append(known[chunk.sha256])
        made = File(path.name, hasher.hexdigest(), size, tuple(segments), tensors)
        return Published(Recipe(1, "model", version, (*old_packs, *writer.close()), (made,)), fresh)


def patched(
    after: Recipe, before: Recipe, old: Path, new: Path, folder: Path
) -> tuple[PatchIndex, dict[tuple[int, int], bytes]]:
    """Every patch that is worth it, in packs, and their bytes by file and segment."""
    blocks: list[Block] = []
    blobs: dict[tuple[int, int], bytes] = {}
    offsets = after.files[0].offsets()
    with PackWriter(folder) as writer, old.open("rb") as was, new.open("rb") as now:
        for pair in matching.match(after, before):
            segment = after.files[pair.file].segments[pair.segment]
            was.seek(pair.old_offset)
            now.seek(offsets[pair.segment])
            patch = patches.make(
                was.read(pair.old_size), now.read(segment.size), dtype=pair.dtype, worth=segment.length
            )
            if patch is None:
                continue
            blobs[pair.file, pair.segment] = patch.data
            source = (pair.old_offset, pair.old_size, patch.old_sha256, patch.transform)
            blocks.append(Block(pair.file, pair.segment, 0, *source, *writer.add(patch.data)))
        return PatchIndex(1, "1.0.0", writer.close(), (old.name,), tuple(blocks)), blobs


def apply(
    after: Recipe, blocks: Sequence[Block], blobs: dict[tuple[int, int], bytes], *, old: Path, new: Path, out: Path
) -> None:
    """Write the new file: patched segments from the old file, the rest copied; its hash must be the new file's."""
    wanted = hash_file(new)
    patched_blocks = {(block.file, block.segment): block for block in blocks}
    hasher = hashlib.sha256()
    with old.open("rb") as was, new.open("rb") as there, out.open("wb") as file:
        for place, segment in enumerate(after.files[0].segments):
            data = there.read(segment.size)
            block = patched_blocks.get((0, place))
            if block is not None:
                was.seek(block.old_offset)
                data = patches.apply(
                    was.read(block.old_size), blobs[0, place], transform=block.transform, old_sha256=block.old_sha256,
                    size=segment.size, sha256=segment.sha256, where=new.name,
                )  # fmt: skip
            hasher.update(data)
            file.write(data)
    if hasher.hexdigest() != wanted:
        sys.exit(f"{new} was not restored")


def chunking_ratio(path: Path, tensors: tuple[Tensor, ...], rounds: int) -> float:
    """CPU to cut and name the chunks, as a multiple of hashing the file's bytes."""
    ratios = []
    for _ in range(rounds):
        start = time.process_time()
        hash_file(path)
        middle = time.process_time()
        with path.open("rb") as file:
            for _ in chunking.cut(file, path.stat().st_size, tensors):
                pass
        ratios.append((time.process_time() - middle) / (middle - start))
    return statistics.median(ratios)


def add(proof: Proof, pair: Pair, rounds: int, *, with_peers: bool) -> None:
    """The rows of one pair."""
    size = pair.new.stat().st_size
    runs = []
    for _ in range(rounds if pair.timed else 1):
        with tempfile.TemporaryDirectory(dir=pair.new.parent) as folder:
            runs.append(measure(pair.old, pair.new, Path(folder)))
    ours, bar = runs[0], pair.bar * size + pair.extra
    said = f"{pair.bar:.1%} of the new file" if pair.bar else f"{pair.extra:,} bytes"
    measured = f"{ours.size / size:.2%}, {ours.size:,} bytes; by chunks alone {ours.chunks / size:.2%}"
    proof.add(f"{pair.name}: transferred", f"≤ {said}", measured, ok=ours.size <= bar)
    if pair.timed:
        share = size / _INT8_BYTES
        for name, limit, values in (
            ("diff", DIFF_BAR_S, [run.diff_s for run in runs]),
            ("patch", PATCH_BAR_S, [run.patch_s for run in runs]),
        ):
            value = statistics.median(values)
            claim, bound = f"{pair.name}: CPU to {name}", limit * share
            proof.add(claim, f"≤ {bound:.2f} s", f"{value:.2f} s", ok=value <= bound)
    for name, run in peers.PEERS.items() if with_peers else ():
        if not peers.available(name) or (name == "bsdiff4" and not pair.bsdiff):
            continue
        with tempfile.TemporaryDirectory(dir=pair.new.parent) as folder:
            delta = run(pair.old, pair.new, Path(folder))
        proof.note(
            f"{pair.name}: {name}", f"{delta.size / size:.2%}; diff {delta.diff_s:.2f} s, patch {delta.patch_s:.2f} s"
        )


def add_chunking(proof: Proof, path: Path, rounds: int) -> None:
    tensors = layouts.of_folder(path.parent, [path.name]).get(path.name, ())
    for name, known in (("at tensors", tensors), ("by content", ())):
        ratio = chunking_ratio(path, known, rounds)
        claim = f"CPU to cut {path.stat().st_size >> 20} MiB {name}, beside hashing it"
        proof.add(claim, f"≤ {CHUNKING_BAR:g} x", f"{ratio:.1f} x", ok=ratio <= CHUNKING_BAR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="*", default=[], choices=pairs.NAMES)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the decoder's parameters")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    proof = Proof()
    with tempfile.TemporaryDirectory() as folder:
        cut = False
        for pair in pairs.make(Path(folder), scale=arguments.scale, wanted=arguments.pairs):
            if pair.timed and not cut:
                add_chunking(proof, pair.new, arguments.rounds)
                cut = True
            add(proof, pair, arguments.rounds, with_peers=not arguments.no_peers)
    sys.exit(proof.finish("Transfers", as_json=arguments.json))


if __name__ == "__main__":
    main()
