"""What two versions of a block differ in, as planes of bytes that compress: and back.

A transform is a bijection of the new block, given the old one of the same size:

- ``bytes``: differences modulo 256. int8 weights after requantization: nearly all are 0, the rest 1 or 255.
- ``nibbles``: the same for each half of a byte. Packed 4-bit weights.
- ``integer<w>``: little-endian integers of ``w`` bytes, subtracted, folded so that small ones of either sign have small
  codes (zigzag: 0, -1, 1, -2 … become 0, 1, 2, 3 …), and split into planes, the lowest bytes first.
- ``ordered<w>``: the same for IEEE floats, whose bits are first brought into the order of their values: a change by a
  small factor is then a small integer, across powers of two as well, where an XOR has carries in every bit.
- ``records<n>``: blocks of ``n`` bytes as in GGUF (scales, then weights): differences modulo 256, sorted by place in
  the block; the first four places are planes of their own, because there the scales lie.

Bytes behind the last whole element are differences modulo 256 and a plane of their own. Arithmetic wraps, so every pair
of blocks has a difference, NaN and infinities as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hedgerow.registry.transfer.dtypes import FLOATS, ITEM_BYTES, RECORD_BYTES

Bytes = NDArray[np.uint8]
Numbers = NDArray[Any]

BYTES: Final = "bytes"
NIBBLES: Final = "nibbles"
_HEAD_PLANES: Final = 4
_MAX_RECORD_BYTES: Final = 1024
_SIGNED: Final[dict[int, np.dtype[Any]]] = {2: np.dtype("<i2"), 4: np.dtype("<i4"), 8: np.dtype("<i8")}
_LOW: Final = np.uint8(0x0F)
_HIGH: Final = np.uint8(0xF0)
_SHAPE: Final = re.compile(r"(integer|ordered|records)([1-9][0-9]{0,3})")


def is_known(transform: str) -> bool:
    """Whether this version of the code can undo ``transform``."""
    if transform in {BYTES, NIBBLES}:
        return True
    shape = _SHAPE.fullmatch(transform)
    if shape is None:
        return False
    return int(shape[2]) <= _MAX_RECORD_BYTES if shape[1] == "records" else int(shape[2]) in _SIGNED


def candidates(dtype: str, size: int) -> tuple[str, ...]:
    """What is worth trying on a block of ``size`` bytes: what fits the type first. ``""`` is bytes of no known type."""
    if dtype in RECORD_BYTES:
        return (f"records{RECORD_BYTES[dtype]}", BYTES)
    if dtype in {"int4", "uint4"}:
        return (NIBBLES, BYTES)
    width = min(ITEM_BYTES.get(dtype, 0), max(_SIGNED))
    if dtype in FLOATS:
        return (f"ordered{width}", BYTES)
    if width in _SIGNED:
        return (f"integer{width}", BYTES)
    if width == 1:  # contrib operators keep 4-bit weights in uint8
        return (BYTES, NIBBLES)
    return (BYTES, "ordered4", "ordered2") if size % 4 == 0 else (BYTES,)


def planes(transform: str, old: Bytes, new: Bytes) -> list[Bytes]:
    """The difference between two blocks of equal size."""
    shape = _SHAPE.fullmatch(transform)
    if shape is None:
        return [_nibbles(new, old) if transform == NIBBLES else new - old]
    kind, width = shape[1], int(shape[2])
    whole = len(new) // width * width
    rest = [new[whole:] - old[whole:]] if whole < len(new) else []
    if kind == "records":
        columns = (new[:whole] - old[:whole]).reshape(-1, width).T
        head = min(_HEAD_PLANES, width)
        body = [columns[head:].ravel()] if width > head else []
        return [np.ascontiguousarray(columns[place]) for place in range(head)] + body + rest
    delta = _numbers(new[:whole], kind, width)
    delta -= _numbers(old[:whole], kind, width)
    folded = np.left_shift(delta, 1)
    folded ^= np.right_shift(delta, 8 * width - 1, out=delta)
    apart = folded.view(np.uint8).reshape(-1, width)
    return [np.ascontiguousarray(apart[:, place]) for place in range(width)] + rest


def sizes(transform: str, size: int) -> list[int]:
    """How long each of ``planes`` is for a block of ``size`` bytes."""
    shape = _SHAPE.fullmatch(transform)
    if shape is None:
        return [size]
    width = int(shape[2])
    count, rest = divmod(size, width)
    if shape[1] == "records":
        head = min(_HEAD_PLANES, width)
        parts = [count] * head + ([count * (width - head)] if width > head else [])
    else:
        parts = [count] * width
    return parts + ([rest] if rest else [])


def restore(transform: str, old: Bytes, parts: Sequence[Bytes]) -> Bytes:
    """The new block from the old one and ``planes``, which have the lengths of ``sizes``."""
    shape = _SHAPE.fullmatch(transform)
    if shape is None:
        return _joined(old, parts[0]) if transform == NIBBLES else old + parts[0]
    kind, width = shape[1], int(shape[2])
    whole = len(old) // width * width
    new = np.empty(len(old), dtype=np.uint8)
    if kind == "records":
        columns = new[:whole].reshape(-1, width)
        head = min(_HEAD_PLANES, width)
        for place in range(head):
            columns[:, place] = parts[place]
        if width > head:
            columns[:, head:] = parts[head].reshape(width - head, -1).T
        new[:whole] += old[:whole]
    else:
        apart = new[:whole].reshape(-1, width)
        for place in range(width):
            apart[:, place] = parts[place]
        _unfold(new[:whole], old[:whole], kind, width)
    if whole < len(old):
        new[whole:] = old[whole:] + parts[-1]
    return new


def _unfold(new: Bytes, old: Bytes, kind: str, width: int) -> None:
    """Turn folded differences in ``new`` into the block's values, in place."""
    folded = new.view(_SIGNED[width])
    sign = np.negative(folded & 1)
    unsigned = new.view(f"<u{width}")
    np.right_shift(unsigned, 1, out=unsigned)
    folded ^= sign
    folded += _numbers(old, kind, width)
    if kind == "ordered":
        _order(folded, width)


def _numbers(block: Bytes, kind: str, width: int) -> Numbers:
    """A copy of ``block`` as integers, of floats in the order of their values."""
    values = block.view(_SIGNED[width]).copy()
    if kind == "ordered":
        _order(values, width)
    return values


def _order(values: Numbers, width: int) -> None:
    """Sign and magnitude to two's complement, or back: it is its own inverse. In place."""
    mask = np.right_shift(values, 8 * width - 1)
    mask &= np.iinfo(values.dtype).max
    values ^= mask


def _nibbles(new: Bytes, old: Bytes) -> Bytes:
    delta: Bytes = (new & _HIGH) - (old & _HIGH)
    delta |= (new - old) & _LOW
    return delta


def _joined(old: Bytes, delta: Bytes) -> Bytes:
    new: Bytes = (old & _HIGH) + (delta & _HIGH)
    new |= (old + delta) & _LOW
    return new
