"""What a device needs to know to build one version of a bundle: ``transfer.json.zst``, a target beside the manifest.

Invariants
----------
* A file is the concatenation of its segments, in order and without a gap; a segment is one chunk.
* A chunk is named by the SHA-256 of its uncompressed bytes, a pack by that of the bytes it holds. So a recipe that was
  verified vouches for everything it leads to, and a pack that lies about its content is found out chunk by chunk.
* A segment whose ``length`` in the pack equals its ``size`` is stored as it is; a shorter one is a single zstd frame.
  There is no third form, so there is no flag that could contradict the bytes.
* Packs are shared between versions: what has not changed lies where an earlier version put it.
* Every size is bounded here, before anybody allocates by it.

The bytes are zstd of canonical JSON: hashes are half of a recipe and hexadecimal doubles them (``codec``).
This module does no IO.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from hedgerow.errors import PublisherError
from hedgerow.registry.manifest import (
    MAX_FILES,
    SHA256_PATTERN,
    Manifest,
    check_path,
    check_paths,
    is_name,
    is_version,
)
from hedgerow.registry.manifest_fields import Name, Version
from hedgerow.registry.reference import Reference

SCHEMA: Final = 1
FILE_NAME: Final = "transfer.json.zst"

# What is accepted of others; what `chunking` and `packs` make is smaller or equal.
MAX_CHUNK_BYTES: Final = 8 << 20
MAX_PACK_BYTES: Final = 32 << 20
MAX_FILE_BYTES: Final = 1 << 40
# 16 MiB of JSON name about 150,000 segments: 150 GB of tensors, or 10 GB cut by content. Decoded, some 40 MB.
MAX_JSON_BYTES: Final = 16 << 20
MAX_RECIPE_BYTES: Final = MAX_JSON_BYTES
MAX_OFFERS: Final = 64

AGAIN: Final = "publish the bundle again: hedgerow registry publish"

Sha256 = Annotated[str, Meta(pattern=SHA256_PATTERN)]
Index = Annotated[int, Meta(ge=0, le=1 << 24)]
Offset = Annotated[int, Meta(ge=0, le=MAX_FILE_BYTES)]
ChunkSize = Annotated[int, Meta(ge=1, le=MAX_CHUNK_BYTES)]
PackSize = Annotated[int, Meta(ge=1, le=MAX_PACK_BYTES)]
Word = Annotated[str, Meta(min_length=1, max_length=64)]
Path = Annotated[str, Meta(min_length=1, max_length=512)]


class Pack(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A file ``packs/<aa>/<sha256>`` of ``size`` bytes, named by the SHA-256 of its content."""

    sha256: Sha256
    size: PackSize


class Segment(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A chunk of ``size`` bytes with this ``sha256``, in ``packs[pack]`` at ``offset``, ``length`` bytes long there."""

    sha256: Sha256
    size: ChunkSize
    pack: Index
    offset: Offset
    length: ChunkSize

    def __post_init__(self) -> None:
        if self.length > self.size:
            raise ValueError(f"chunk {self.sha256[:12]} takes {self.length} bytes in its pack and has {self.size}")


class Tensor(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where one tensor lies in its file, in bytes; ``dtype`` as ``layouts`` spells it (``float32``, ``int8`` …)."""

    name: Annotated[str, Meta(max_length=1024)]
    dtype: Word
    offset: Offset
    size: Annotated[int, Meta(ge=1, le=MAX_FILE_BYTES)]


class File(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One file of the bundle: its segments fill it. ``tensors`` are in order and do not overlap."""

    path: Path
    sha256: Sha256
    size: Annotated[int, Meta(ge=0, le=MAX_FILE_BYTES)]
    segments: tuple[Segment, ...]
    tensors: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        check_path(self.path)
        total = sum(segment.size for segment in self.segments)
        if total != self.size:
            raise ValueError(f"the segments of {self.path} have {total} bytes together, the file has {self.size}")
        end = 0
        for tensor in self.tensors:
            if tensor.offset < end:
                raise ValueError(f"tensor {tensor.name!r} of {self.path} overlaps the one before")
            end = tensor.offset + tensor.size
        if end > self.size:
            raise ValueError(f"tensors of {self.path} reach to byte {end}, the file has {self.size}")

    def offsets(self) -> list[int]:
        """Where each segment begins in the file, in bytes."""
        return [0, *itertools.accumulate(segment.size for segment in self.segments[:-1])] if self.segments else []

    def tensor_at(self, offset: int) -> Tensor | None:
        """The tensor that holds this byte of the file."""
        place = bisect.bisect_right(self.tensors, offset, key=lambda tensor: tensor.offset) - 1
        if place < 0:
            return None
        tensor = self.tensors[place]
        return tensor if offset < tensor.offset + tensor.size else None


class Offer(Struct, frozen=True, forbid_unknown_fields=True):
    """Patches from an older ``version``, whose manifest has the hash ``manifest_sha256``.

    There are ``blocks`` of them with ``size`` bytes together; ``index`` is where the ``PatchIndex`` lies.
    """

    version: Version
    manifest_sha256: Sha256
    blocks: Index
    size: Offset
    index: Segment

    def __post_init__(self) -> None:
        _check_version(self.version)


class Recipe(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``transfer.json.zst``: every file of ``name@version`` as segments, and the patches that lead to it."""

    schema: Literal[1]
    name: Name
    version: Version
    packs: tuple[Pack, ...]
    files: Annotated[tuple[File, ...], Meta(max_length=MAX_FILES)]
    patches: Annotated[tuple[Offer, ...], Meta(max_length=MAX_OFFERS)] = ()

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(f"{self.name!r} is no bundle's name")
        _check_version(self.version)
        check_paths([file.path for file in self.files])
        for file in self.files:
            _check_places(file.segments, self.packs, file.path)
        _check_places([offer.index for offer in self.patches], self.packs, "patches")

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


class Block(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One segment of the new version made from bytes of the old one.

    ``file`` and ``segment`` are indices into the recipe; ``old`` is one into the index's ``paths``, and the old bytes
    are checked against ``old_sha256`` before they are used. The patch lies in the index's ``packs[pack]``.
    """

    file: Index
    segment: Index
    old: Index
    old_offset: Offset
    old_size: ChunkSize
    old_sha256: Sha256
    transform: Word
    pack: Index
    offset: Offset
    length: ChunkSize


class PatchIndex(Struct, frozen=True, forbid_unknown_fields=True):
    """The patches from one older ``version``: a frame in a pack, found through the recipe's ``Offer``."""

    schema: Literal[1]
    version: Version
    packs: tuple[Pack, ...]
    paths: Annotated[tuple[Path, ...], Meta(max_length=MAX_FILES)]
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        _check_version(self.version)
        for path in self.paths:
            check_path(path)
        _check_places(self.blocks, self.packs, f"patches from {self.version}")
        for block in self.blocks:
            if block.old >= len(self.paths):
                raise ValueError(f"a patch names old file {block.old}, there are {len(self.paths)}")


def _check_version(version: str) -> None:
    if not is_version(version):  # it becomes a folder's name
        raise ValueError(f"{version!r} is no semantic version")


def _check_places(places: Sequence[Segment | Block], packs: Sequence[Pack], where: str) -> None:
    for place in places:
        if place.pack >= len(packs):
            raise ValueError(f"{where} names pack {place.pack}, there are {len(packs)}")
        if place.offset + place.length > packs[place.pack].size:
            raise ValueError(f"{where} names bytes beyond the end of pack {packs[place.pack].sha256[:12]}")


def target(reference: Reference) -> str:
    """The recipe's target path in the TUF metadata, beside the manifest's."""
    return f"{reference.target.rpartition('/')[0]}/{FILE_NAME}"


def pack_path(sha256: str) -> str:
    """Where a pack lies below ``targets/``. 256 folders, because a folder of 100,000 files is slow to list."""
    return f"packs/{sha256[:2]}/{sha256}"


def check_agrees(recipe: Recipe, manifest: Manifest) -> None:
    """Hold the recipe to the manifest: the same bundle, the same files with the same content.

    Raises:
        PublisherError: they differ; says in what.
    """
    if recipe.reference != manifest.reference:
        raise _disagrees(f"describes {recipe.reference}", manifest)
    made = {file.path: (file.size, file.sha256) for file in recipe.files}
    wanted = {file.path: (file.size, file.sha256) for file in manifest.files}
    for path in sorted(made.keys() ^ wanted.keys()):
        raise _disagrees(f"{'lacks' if path in wanted else 'adds'} {path}", manifest)
    for path, content in wanted.items():
        if made[path] != content:
            raise _disagrees(f"has another size or sha256 for {path}", manifest)


def _disagrees(what: str, manifest: Manifest) -> PublisherError:
    return PublisherError(
        f"the recipe {what}, unlike the manifest", where=f"{FILE_NAME} of {manifest.reference}", next_step=AGAIN
    )
