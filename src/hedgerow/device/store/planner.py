"""From what each byte of a version is made: what is here, a patch, or a full chunk. Pure: no IO.

For every segment of the recipe, in this order of worth:

- **done**: an earlier attempt has put it into its place.
- **same**: the same chunk stands elsewhere in this version, and comes once.
- **here**: a version on this device has the chunk.
- **patch**: a version on this device has the old bytes, and the registry a patch from them.
- **chunk**: the whole chunk, from its pack.

The last three are held against each other by one price: fetched bytes, plus written bytes times ``wear``, plus read
bytes times ``reading``. Every one of them writes the segment's bytes once, because frames are expanded straight into
their place: so flash is spared by the design, and between patch and chunk bytes on the line and reads decide. A patch
that would take more memory than the device allows is passed over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from hedgerow.registry.transfer.recipe import Block, PatchIndex, Recipe

How = Literal["done", "same", "here", "patch", "chunk"]
Reason = Literal[
    "placed before", "twice in this version", "on this device", "cheaper than its chunk", "nothing like it here",
    "patch saves too little", "patch needs too much memory", "patch failed here", "copy failed here",
]  # fmt: skip

# What applying one patch takes at the most: old block, new block, planes and frame (registry.transfer.patches).
_PATCH_FIXED = 4 << 20
_PATCH_TIMES = 5


class Place(Struct, frozen=True):
    """``size`` bytes with this ``sha256`` at ``offset`` of file ``path`` of a version (``reference``) that is here.

    ``finished`` False: of a download that is not, so that they may be missing.
    """

    reference: str
    path: str
    offset: int
    size: int
    sha256: str
    finished: bool = True


class Frame(Struct, frozen=True):
    """``length`` bytes at ``offset`` of the pack with this SHA-256."""

    pack: str
    offset: int
    length: int


class Step(Struct, frozen=True):
    """What becomes of one segment: ``file`` and ``segment`` are indices into the recipe, ``offset`` is in the file.

    ``fetched``, ``read`` and ``written`` are bytes. ``place`` is what is read here, ``frame`` what is fetched,
    ``transform`` how a patch is applied.
    """

    file: int
    segment: int
    offset: int
    size: int
    sha256: str
    how: How
    reason: Reason
    fetched: int = 0
    read: int = 0
    written: int = 0
    place: Place | None = None
    frame: Frame | None = None
    transform: str | None = None


@dataclass(frozen=True)
class Costs:
    """Prices in fetched bytes: of a byte ``written`` to flash, of one ``read``; ``memory`` in bytes."""

    written: float = 0.1
    read: float = 0.01
    memory: int = 64 << 20

    def price(self, step: Step) -> float:
        """What a step costs."""
        return step.fetched + self.written * step.written + self.read * step.read


@dataclass(frozen=True)
class Patches:
    """The patches from one version (``reference``) that is on this device."""

    reference: str
    index: PatchIndex


@dataclass(frozen=True)
class Known:
    """What is on this device.

    ``chunks``: SHA-256 of a chunk → places that have it. ``done``: (file, segment) that are in their place. ``bad``:
    places whose bytes turned out to be others. ``failed``: (file, segment) whose patch did not lead to it.
    """

    chunks: Mapping[str, Sequence[Place]]
    patches: Sequence[Patches] = ()
    done: Collection[tuple[int, int]] = ()
    bad: Collection[Place] = ()
    failed: Collection[tuple[int, int]] = ()


@dataclass(frozen=True)
class Plan:
    """A step for every segment of ``recipe``, in file order."""

    recipe: Recipe
    steps: tuple[Step, ...]

    @property
    def fetched(self) -> int:
        return sum(step.fetched for step in self.steps)

    @property
    def read(self) -> int:
        return sum(step.read for step in self.steps)

    @property
    def written(self) -> int:
        return sum(step.written for step in self.steps)

    @property
    def missing(self) -> tuple[Step, ...]:
        """What is not in its place yet."""
        return tuple(step for step in self.steps if step.how != "done")

    def bytes_by(self) -> dict[str, int]:
        """Bytes of the version by how they come."""
        found = dict.fromkeys(("done", "same", "here", "patch", "chunk"), 0)
        for step in self.steps:
            found[step.how] += step.size
        return found

    def sources(self) -> set[str]:
        """The versions (references) that steps read."""
        return {step.place.reference for step in self.steps if step.place is not None}


def plan(recipe: Recipe, known: Known, costs: Costs) -> Plan:
    """Choose for every segment of ``recipe``; the same input gives the same plan."""
    offers = _offers(recipe, known)
    # A chunk that this version has twice comes once; where an attempt has placed one of them, that one is the first.
    first: dict[str, tuple[int, int]] = {}
    for file, segment in sorted(known.done):
        first.setdefault(recipe.files[file].segments[segment].sha256, (file, segment))
    steps = []
    for at, chunk in _chunks(recipe):
        if at in known.done:
            step = replace(chunk, how="done", reason="placed before", fetched=0, written=0, frame=None)
        elif first.setdefault(chunk.sha256, at) != at:
            step = replace(chunk, how="same", reason="twice in this version", fetched=0, read=chunk.size, frame=None)
        else:
            step = _choose(chunk, known, offers.get(at, ()), costs)
        steps.append(step)
    return Plan(recipe, tuple(steps))


def fetched_at_most(recipe: Recipe, known: Known) -> int:
    """Bytes of the chunks that are nowhere on this device: what there is to gain for patches."""
    wanted = {
        chunk.sha256: chunk.fetched
        for at, chunk in _chunks(recipe)
        if at not in known.done and _usable(chunk.sha256, known) is None
    }
    return sum(wanted.values())


def _chunks(recipe: Recipe) -> Iterator[tuple[tuple[int, int], Step]]:
    """Every segment as a step that fetches its whole chunk."""
    for number, file in enumerate(recipe.files):
        for index, (segment, offset) in enumerate(zip(file.segments, file.offsets(), strict=True)):
            frame = Frame(recipe.packs[segment.pack].sha256, segment.offset, segment.length)
            yield (
                (number, index),
                Step(
                    file=number,
                    segment=index,
                    offset=offset,
                    size=segment.size,
                    sha256=segment.sha256,
                    how="chunk",
                    reason="nothing like it here",
                    fetched=segment.length,
                    written=segment.size,
                    frame=frame,
                ),
            )


def _offers(recipe: Recipe, known: Known) -> dict[tuple[int, int], list[tuple[Patches, Block]]]:
    found: dict[tuple[int, int], list[tuple[Patches, Block]]] = {}
    for patches in known.patches:
        for block in patches.index.blocks:
            if block.file < len(recipe.files) and block.segment < len(recipe.files[block.file].segments):
                found.setdefault((block.file, block.segment), []).append((patches, block))
    return found


def _choose(chunk: Step, known: Known, offers: Sequence[tuple[Patches, Block]], costs: Costs) -> Step:
    """The cheapest way; where it is ``chunk``, with the reason why nothing else is taken."""
    best, reason = chunk, chunk.reason
    place = _usable(chunk.sha256, known)
    if place is not None:
        here = replace(chunk, how="here", reason="on this device", fetched=0, read=chunk.size, frame=None, place=place)
        best = min(best, here, key=costs.price)
    elif chunk.sha256 in known.chunks:
        reason = "copy failed here"
    for patches, block in offers if best is chunk else ():
        step = _patched(chunk, patches, block)
        if (chunk.file, chunk.segment) in known.failed or step.place in known.bad:
            reason = "patch failed here"
        elif _PATCH_FIXED + _PATCH_TIMES * max(block.old_size, chunk.size) > costs.memory:
            reason = "patch needs too much memory"
        elif costs.price(step) < costs.price(best):
            best = step
        else:
            reason = "patch saves too little"
    return best if best is not chunk else replace(chunk, reason=reason)


def _patched(chunk: Step, patches: Patches, block: Block) -> Step:
    index = patches.index
    path = index.paths[block.old]
    return replace(
        chunk,
        how="patch",
        reason="cheaper than its chunk",
        fetched=block.length,
        read=block.old_size,
        place=Place(patches.reference, path, block.old_offset, block.old_size, block.old_sha256),
        frame=Frame(index.packs[block.pack].sha256, block.offset, block.length),
        transform=block.transform,
    )


def _usable(sha256: str, known: Known) -> Place | None:
    return next((place for place in known.chunks.get(sha256, ()) if place not in known.bad), None)
