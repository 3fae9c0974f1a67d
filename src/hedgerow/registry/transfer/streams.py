"""Planes of differences as a patch's bytes, and back.

A plane with few non-zero bytes becomes two streams: how many zeros stand before each of them, and their values. zstd
alone spends a bit on every zero between them, which is more than all the rest. Each stream is a zstd frame of its own,
or as it is where that is shorter; before them stands a head in msgpack: for every plane the lengths of its streams.

Gaps are bytes that add up: 255 means "255, and more follows".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from hedgerow.errors import PublisherError
from hedgerow.registry.transfer import packs
from hedgerow.registry.transfer.recipe import MAX_CHUNK_BYTES

Bytes = NDArray[np.uint8]

# With more non-zero bytes than this share, gaps cost what they save.
_SPARSE_SHARE: Final = 0.25
_FULL: Final = 255
_HEAD_BYTES: Final = 2
_MAX_PLANES: Final = 16
_Length = Annotated[int, Meta(ge=0, le=MAX_CHUNK_BYTES)]


class _Stream(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """``size`` bytes that take ``length`` in the patch: equal means as they are, less means a zstd frame."""

    size: _Length
    length: _Length


_Head = Annotated[tuple[Annotated[tuple[_Stream, ...], Meta(max_length=2)], ...], Meta(max_length=_MAX_PLANES)]


def pack(planes: Sequence[Bytes]) -> bytes:
    """The bytes of these planes."""
    head: list[tuple[_Stream, ...]] = []
    bodies: list[bytes] = []
    for plane in planes:
        streams: list[_Stream] = []
        for part in _split(plane):
            body = packs.frame(part) if part else b""
            streams.append(_Stream(len(part), len(body)))
            bodies.append(body)
        head.append(tuple(streams))
    start = msgspec.msgpack.encode(head)
    return b"".join([len(start).to_bytes(_HEAD_BYTES, "little"), start, *bodies])


def unpack(data: bytes, sizes: Sequence[int], *, where: str) -> list[Bytes]:
    """Planes of these lengths.

    Raises:
        PublisherError: damaged, or planes of other lengths.
    """
    position = _HEAD_BYTES + int.from_bytes(data[:_HEAD_BYTES], "little")
    try:
        head = msgspec.msgpack.decode(data[_HEAD_BYTES:position], type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(f"its head is no list of lengths: {error}", where) from error
    if len(head) != len(sizes):
        raise _damaged(f"it has {len(head)} planes, not {len(sizes)}", where)
    if position + sum(stream.length for streams in head for stream in streams) != len(data):
        raise _damaged(f"it has {len(data)} bytes, which is not what its head says", where)
    planes = []
    for streams, size in zip(head, sizes, strict=True):
        parts = []
        for stream in streams:
            # A gap is at least a byte of the plane and 255 of them at most, so no stream is longer than its plane.
            if stream.size > size or stream.length > stream.size:
                raise _damaged(f"a stream of {stream.size} bytes belongs to a plane of {size}", where)
            body = data[position : position + stream.length]
            position += stream.length
            parts.append(body if len(body) == stream.size else packs.expand(body, size=stream.size, where=where))
        planes.append(_joined(parts, size, where))
    return planes


def _split(plane: Bytes) -> tuple[bytes, ...]:
    """One stream, or two: gaps and values."""
    count = int(np.count_nonzero(plane))
    if count > _SPARSE_SHARE * len(plane):
        return (plane.tobytes(),)
    if count == 0:
        return ()
    places = np.flatnonzero(plane)
    gaps = np.diff(places, prepend=-1) - 1
    steps = np.cumsum(gaps // _FULL + 1)
    coded = np.full(int(steps[-1]), _FULL, dtype=np.uint8)
    coded[steps - 1] = gaps % _FULL
    return coded.tobytes(), plane[places].tobytes()


def _joined(parts: Sequence[bytes], size: int, where: str) -> Bytes:
    if len(parts) == 1:
        if len(parts[0]) != size:
            raise _damaged(f"a plane has {len(parts[0])} bytes, not {size}", where)
        return np.frombuffer(parts[0], dtype=np.uint8)
    plane = np.zeros(size, dtype=np.uint8)
    if not parts:
        return plane
    coded, values = (np.frombuffer(part, dtype=np.uint8) for part in parts)
    ends = np.flatnonzero(coded != _FULL)
    if len(ends) != len(values):
        raise _damaged(f"a plane has {len(ends)} gaps and {len(values)} values", where)
    places = np.cumsum(coded, dtype=np.int64)[ends] + np.arange(len(ends))
    if len(places) and int(places[-1]) >= size:
        raise _damaged(f"a gap leads beyond the end of a plane of {size} bytes", where)
    plane[places] = values
    return plane


def _damaged(what: str, where: str) -> PublisherError:
    return PublisherError(f"a patch is damaged: {what}", where=where, next_step=packs.AGAIN)
