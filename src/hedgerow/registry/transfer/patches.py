"""Make one block of a new version from a block of an old one: with as few bytes as can be, and never wrongly.

Both ends are held to a hash: the old block is checked before anything is computed from it, the new one before it is
used. Which transform is best is tried on a sample of the block; what was made is undone once before it is handed out.

Memory to apply one: the two blocks, the planes and one more copy as numbers; a block has 1 MiB, so about 6 MiB.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import zstandard

from hedgerow.errors import DeviceError, PublisherError
from hedgerow.registry.transfer import packs, streams, transforms
from hedgerow.registry.transfer.dtypes import unit

# zstd with the old bytes as its raw dictionary: text, graphs, and what was moved or grew.
DICTIONARY: Final = "dictionary"
_SAMPLE_BYTES: Final = 64 << 10
# A patch that saves less is not worth reading the old block for.
_WORTH: Final = 0.95


@dataclass(frozen=True)
class Patch:
    """``data`` lies in a pack; ``apply`` wants the ``transform`` and the hash of the old bytes beside it."""

    transform: str
    old_sha256: str
    data: bytes


def make(old: bytes, new: bytes, *, dtype: str, worth: int) -> Patch | None:
    """The smallest patch that leads from ``old`` to ``new``; None where none is smaller than ``worth`` bytes.

    ``dtype`` is the tensor's, "" where bytes have none; ``worth`` is what the new block takes in a pack. Blocks of
    unequal size have only a dictionary in common. May be called from several threads at once.
    """
    tried = transforms.candidates(dtype, len(new)) if len(old) == len(new) else ()
    samples = {name: len(_made(name, *_samples(old, new, unit(dtype)))) for name in tried}
    best = min(samples, key=lambda name: samples[name], default=None)
    limit = _WORTH * worth
    data = b""
    if best is not None and samples[best] * len(new) / min(len(new), _SAMPLE_BYTES) < limit:
        data = _made(best, old, new)
    if dtype == "":  # tensors have no text to find again
        other = _made(DICTIONARY, old, new)
        if not data or len(other) < len(data):
            best, data = DICTIONARY, other
    if best is None or not data or len(data) >= limit:
        return None
    if _applied(best, old, data, size=len(new), where="a patch just made") != new:
        raise AssertionError(f"{best} does not lead back")
    return Patch(best, hashlib.sha256(old).hexdigest(), data)


def apply(old: bytes, data: bytes, *, transform: str, old_sha256: str, size: int, sha256: str, where: str) -> bytes:
    """The new block of ``size`` bytes and this ``sha256``.

    Raises:
        DeviceError: ``old`` is not the block that the patch was made from; the chunk itself will do instead.
        PublisherError: the patch is damaged, of an unknown kind, or leads to another block.
    """
    actual = hashlib.sha256(old).hexdigest()
    if actual != old_sha256:
        raise DeviceError(
            f"the old bytes were altered: sha256 {actual}, the patch wants {old_sha256}",
            where=where,
            next_step="fetch the whole chunk instead",
        )
    new = _applied(transform, old, data, size=size, where=where)
    result = hashlib.sha256(new).hexdigest()
    if result != sha256:
        raise PublisherError(
            f"a patch leads to another block: sha256 {result}, wanted {sha256}", where=where, next_step=packs.AGAIN
        )
    return new


def _made(transform: str, old: bytes, new: bytes) -> bytes:
    if transform == DICTIONARY:
        return _with_dictionary(old).compress(new)
    before, after = (np.frombuffer(block, dtype=np.uint8) for block in (old, new))
    return streams.pack(transforms.planes(transform, before, after))


def _applied(transform: str, old: bytes, data: bytes, *, size: int, where: str) -> bytes:
    if transform == DICTIONARY:
        return packs.expand(data, size=size, where=where, dictionary=_dictionary(old))
    if not transforms.is_known(transform):
        raise PublisherError(
            f"a patch is of the unknown kind {transform!r}",
            where=where,
            next_step="update the runtime of this host first",
        )
    if len(old) != size:
        raise PublisherError(f"a patch leads from {len(old)} bytes to {size}", where=where, next_step=packs.AGAIN)
    planes = streams.unpack(data, transforms.sizes(transform, size), where=where)
    return transforms.restore(transform, np.frombuffer(old, dtype=np.uint8), planes).tobytes()


def _samples(old: bytes, new: bytes, whole: int) -> tuple[bytes, bytes]:
    """The same bytes from the middle of both, in whole elements."""
    if len(new) <= _SAMPLE_BYTES:
        return old, new
    start = (len(new) - _SAMPLE_BYTES) // 2 // whole * whole
    end = start + _SAMPLE_BYTES // whole * whole
    return old[start:end], new[start:end]


def _dictionary(old: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _with_dictionary(old: bytes) -> zstandard.ZstdCompressor:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        packs.LEVEL, dict_size=len(old), write_content_size=True, write_checksum=False, write_dict_id=False
    )
    return zstandard.ZstdCompressor(dict_data=_dictionary(old), compression_params=parameters)
