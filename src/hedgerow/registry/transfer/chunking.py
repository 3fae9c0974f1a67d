"""Cut a file into chunks: at tensors where they are known, by content elsewhere.

- A tensor is cut every MiB from its own start, in whole elements, so that bytes before it can grow without moving its
  borders, and old and new blocks of one tensor cover the same elements.
- Less than 1 KiB between two tensors (padding, the next one's name) stays with the block before it: a chunk of 30
  bytes would cost 70 in the recipe.
- What else lies between is cut by its content: behind every 8 bytes that have a rare property. One that 2^-18 of all
  have ends a chunk from 16 KiB on, one that 2^-14 have from 64 KiB on, and 256 KiB end it anyway, so that chunks gather
  around 64 KiB (normalized chunking, as in FastCDC, Xia et al., USENIX ATC 2016). An insertion moves the borders near
  it and no others.

The property has two steps, because a rolling hash such as FastCDC's gear takes a step a byte, which NumPy has not: a
weighted sum of the last four bytes (modulo 256, whole arrays at once) must have one value of 256; where it has, the
word of the last eight times an odd constant must be small (Fibonacci hashing, Knuth vol. 3, 6.4).

Memory: a few blocks of 1 MiB, whatever the file's size.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hedgerow.errors import PublisherError
from hedgerow.registry.transfer.dtypes import unit
from hedgerow.registry.transfer.recipe import Tensor

BLOCK_BYTES: Final = 1 << 20
GLUE_BYTES: Final = 1 << 10
MIN_BYTES: Final = 16 << 10
AVERAGE_BYTES: Final = 64 << 10
MAX_BYTES: Final = 256 << 10

_WINDOW: Final = 8
# Odd, so that each of the four bytes alone decides; no run of one byte's value is rare twice at once (a test looks).
_WEIGHTS: Final = (np.uint8(37), np.uint8(113))
_RARE: Final = np.uint8(91)
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
# Of the 2^-8 that the first step leaves.
_LOOSE: Final = np.uint64(1 << (64 - 14 + 8))
_STRICT: Final = np.uint64(1 << (64 - 18 + 8))
# Pieces of this size and what is made of them stay in a core's cache.
_PIECE_BYTES: Final = 64 << 10
_BUFFER_BYTES: Final = 2 << 20


@dataclass(frozen=True)
class Chunk:
    """Bytes of a file from ``offset`` on, and their SHA-256 (hex)."""

    offset: int
    data: bytes
    sha256: str


@dataclass(frozen=True)
class Region:
    """``size`` bytes from ``offset`` on, cut every ``block`` bytes; by content where ``block`` is 0."""

    offset: int
    size: int
    block: int


def cut(file: BufferedIOBase, size: int, tensors: Sequence[Tensor] = ()) -> Iterator[Chunk]:
    """The chunks of ``file``: in order, without a gap, none empty. ``tensors`` as ``layouts`` gives them.

    Raises:
        PublisherError: the file ends before ``size`` bytes.
    """
    file.seek(0)
    for region in regions(size, tensors):
        parts = _fixed(file, region) if region.block else _by_content(file, region)
        offset = region.offset
        for data in parts:
            yield Chunk(offset, data, hashlib.sha256(data).hexdigest())
            offset += len(data)


def regions(size: int, tensors: Sequence[Tensor]) -> list[Region]:
    """How a file of ``size`` bytes is cut; regions are in order and fill it."""
    found: list[Region] = []
    end = 0
    for place, tensor in enumerate(tensors):
        if tensor.offset > end:
            found.append(Region(end, tensor.offset - end, 0))
        following = tensors[place + 1].offset if place + 1 < len(tensors) else size
        end = tensor.offset + tensor.size
        if following - end < GLUE_BYTES:
            end = following
        block = max(BLOCK_BYTES // unit(tensor.dtype), 1) * unit(tensor.dtype)
        found.append(Region(tensor.offset, end - tensor.offset, block))
    if size > end:
        found.append(Region(end, size - end, 0))
    return found


def _fixed(file: BufferedIOBase, region: Region) -> Iterator[bytes]:
    left = region.size
    while left:
        # A rest that is too small for a chunk of its own goes with the last block.
        length = left if left < region.block + GLUE_BYTES else region.block
        yield _read(file, length)
        left -= length


def _by_content(file: BufferedIOBase, region: Region) -> Iterator[bytes]:
    left = region.size
    buffer = bytearray(min(_BUFFER_BYTES, left))
    kept = 0
    while left or kept:
        fresh = min(left, len(buffer) - kept)
        got = file.readinto(memoryview(buffer)[kept : kept + fresh])
        if got != fresh:
            raise _ended(file, fresh - got)
        left -= fresh
        filled, start = kept + fresh, 0
        loose, strict = candidates(np.frombuffer(buffer, dtype=np.uint8, count=filled))
        # Short of a whole largest chunk a border might still come, unless nothing follows.
        while filled - start >= MAX_BYTES or (start < filled and not left):
            end = _border(start, filled, loose, strict)
            yield bytes(memoryview(buffer)[start:end])
            start = end
        kept = filled - start
        buffer[:kept] = buffer[start:filled]


def _border(start: int, filled: int, loose: list[int], strict: list[int]) -> int:
    """The end of the chunk that begins at ``start``."""
    last = min(start + MAX_BYTES, filled)
    for ends, first, stop in (
        (strict, start + MIN_BYTES, min(start + AVERAGE_BYTES, last)),
        (loose, start + AVERAGE_BYTES, last),
    ):
        place = bisect.bisect_left(ends, first)
        if place < len(ends) and ends[place] < stop:
            return ends[place]
    return last


def candidates(buffer: NDArray[np.uint8]) -> tuple[list[int], list[int]]:
    """Where 8 bytes with the rare property end (exclusive), ascending; and where those with the rarer one do."""
    size = len(buffer)
    if size < _WINDOW:
        return [], []
    pairs, sums = np.empty(_PIECE_BYTES, np.uint8), np.empty(_PIECE_BYTES, np.uint8)
    # Every window of eight bytes as one number; a view, of which few are read.
    words = np.ndarray((size - _WINDOW + 1,), "<u8", buffer, 0, (1,))
    loose: list[int] = []
    strict: list[int] = []
    for begin in range(0, size - _WINDOW + 1, _PIECE_BYTES - 3):
        # sums[i] is of the last four bytes of the window that begins at begin + i.
        piece = buffer[begin + 4 : begin + 4 + _PIECE_BYTES]
        pair = np.multiply(piece[:-1], _WEIGHTS[0], out=pairs[: len(piece) - 1])
        pair += piece[1:]
        total = np.multiply(pair[:-2], _WEIGHTS[1], out=sums[: len(piece) - 3])
        total += pair[2:]
        places = np.flatnonzero(total == _RARE) + begin
        mixed = words[places] * _MULTIPLIER
        loose += (places[mixed < _LOOSE] + _WINDOW).tolist()
        strict += (places[mixed < _STRICT] + _WINDOW).tolist()
    return loose, strict


def _read(file: BufferedIOBase, length: int) -> bytes:
    data = file.read(length)
    if len(data) != length:
        raise _ended(file, length - len(data))
    return data


def _ended(file: BufferedIOBase, missing: int) -> PublisherError:
    return PublisherError(
        f"the file ended {missing} bytes early",
        where=str(getattr(file, "name", "")),
        next_step="leave the bundle alone while it is published",
    )
