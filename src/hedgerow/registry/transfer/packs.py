"""Packs: chunks one behind the other, each as one zstd frame, or as it is where zstd gains nothing.

A frame is checked before it is expanded: it must say its size, that must be the size of the chunk, and the chunk's
SHA-256 decides in the end. So a frame costs a reader the memory of one chunk, whatever it holds.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import zstandard

from hedgerow.errors import PublisherError
from hedgerow.registry.transfer.recipe import MAX_CHUNK_BYTES, MAX_PACK_BYTES, Pack, pack_path

# 19 makes weights 0 to 2 % smaller than 3 and takes 50 times as long.
LEVEL: Final = 3
AGAIN: Final = "fetch it again; if that does not help, publish the bundle again"
_PART: Final = ".part"
_local = threading.local()


class Place(NamedTuple):
    """Where a frame lies: index into the writer's packs, offset and length in bytes."""

    pack: int
    offset: int
    length: int


def frame(data: bytes) -> bytes:
    """``data`` as it lies in a pack. May be called from several threads at once; zstd leaves Python's lock.

    Raises:
        ValueError: empty, or larger than a chunk may be.
    """
    if not 0 < len(data) <= MAX_CHUNK_BYTES:
        raise ValueError(f"a chunk has 1 to {MAX_CHUNK_BYTES} bytes, not {len(data)}")
    packed = _compressor().compress(data)
    return packed if len(packed) < len(data) else data


def unframe(data: bytes, *, size: int, sha256: str, where: str) -> bytes:
    """The chunk in a frame, verified.

    Raises:
        PublisherError: damaged, of another size, or not the chunk of this hash.
    """
    if len(data) > size:
        raise PublisherError(f"a chunk of {size} bytes takes {len(data)} in its pack", where=where, next_step=AGAIN)
    chunk = data if len(data) == size else expand(data, size=size, where=where)
    actual = hashlib.sha256(chunk).hexdigest()
    if actual != sha256:
        raise PublisherError(f"a chunk was altered: sha256 {actual}, wanted {sha256}", where=where, next_step=AGAIN)
    return chunk


def expand(data: bytes, *, size: int, where: str, dictionary: zstandard.ZstdCompressionDict | None = None) -> bytes:
    """Expand one zstd frame to exactly ``size`` bytes; what it says of itself is believed only where it says that.

    Raises:
        PublisherError: no such frame.
    """
    try:
        declared = zstandard.get_frame_parameters(data).content_size
        if declared != size:
            said = "no size" if declared == zstandard.CONTENTSIZE_UNKNOWN else f"{declared} bytes"
            raise PublisherError(f"a frame declares {said}, wanted {size}", where=where, next_step=AGAIN)
        # With its size declared a frame is expanded in one pass, straight into a buffer of that size.
        return zstandard.ZstdDecompressor(dict_data=dictionary).decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PublisherError(f"a frame is damaged: {error}", where=where, next_step=AGAIN) from error


class PackWriter:
    """Writes frames into packs below ``folder``; a finished pack is the file ``folder/packs/<aa>/<sha256>``.

    A context manager: left by an error, it removes the pack that was being written. Not for several threads.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_PACK_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._packs: list[Pack] = []
        self._part = folder / _PART
        self._hasher = hashlib.sha256()
        self._size = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self._part.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)

    def add(self, data: bytes) -> Place:
        """Append a frame; where it lies. Its pack's name is known once ``close`` has returned."""
        if self._size and self._size + len(data) > self._max_bytes:
            self._finish()
            self._file = self._part.open("wb")
        place = Place(len(self._packs), self._size, len(data))
        self._file.write(data)
        self._hasher.update(data)
        self._size += len(data)
        return place

    def close(self) -> tuple[Pack, ...]:
        """Finish the last pack; every pack, by the index that ``add`` gave. Nothing can be added after that."""
        if self._size:
            self._finish()
        self._file.close()
        self._part.unlink(missing_ok=True)
        return tuple(self._packs)

    def _finish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        pack = Pack(self._hasher.hexdigest(), self._size)
        final = self._folder / pack_path(pack.sha256)
        final.parent.mkdir(parents=True, exist_ok=True)
        self._part.replace(final)
        self._packs.append(pack)
        self._hasher, self._size = hashlib.sha256(), 0


def _compressor() -> zstandard.ZstdCompressor:
    # One a thread: a compressor is not for two at once, and a new one costs more than a small chunk.
    kept: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if kept is None:
        kept = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True, write_checksum=False)
        _local.compressor = kept
    return kept
