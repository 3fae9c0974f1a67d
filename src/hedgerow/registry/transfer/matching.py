"""Which bytes of an old version a new segment most likely resembles. Pure: two recipes say it.

- A tensor is matched with the one of its name, type and size in the file of the same path; then with one of the same
  name in any file; what is left on both sides, in order, with those of the same type and size (renamed tensors).
- Bytes between tensors are matched with those behind the same tensor (or at the file's start), in the file of the same
  path. Where both stretches are equally long, byte by byte; else with a stretch around the same place, wide enough for
  what was inserted before.

Nothing here is a promise: a pair that has nothing in common makes no patch, and the segment travels as a chunk.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hedgerow.registry.transfer.recipe import File, Recipe, Segment, Tensor

# Around the same place: what may have been inserted before it, and still be found.
_SLACK_BYTES: Final = 128 << 10


@dataclass(frozen=True)
class Pair:
    """A segment of the new version (indices into its recipe), and bytes of the old; ``dtype`` is "" between tensors."""

    file: int
    segment: int
    old_path: str
    old_offset: int
    old_size: int
    dtype: str


@dataclass(frozen=True)
class _Home:
    """A tensor and the file that it lies in."""

    path: str
    file_size: int
    tensor: Tensor


def match(new: Recipe, old: Recipe) -> tuple[Pair, ...]:
    """A pair for each segment of ``new`` whose chunk ``old`` has not, where one can be found."""
    known = {segment.sha256 for file in old.files for segment in file.segments}
    homes = _homes(new, old)
    stretches = {file.path: _stretches(file) for file in old.files}
    found: list[Pair] = []
    for file_index, file in enumerate(new.files):
        there = stretches.get(file.path, {})
        for index, (segment, offset) in enumerate(zip(file.segments, file.offsets(), strict=True)):
            if segment.sha256 in known:
                continue
            known.add(segment.sha256)  # one patch will do for all that are equal
            tensor = file.tensor_at(offset)
            if tensor is not None:
                place = _in_tensor(segment, offset, tensor, homes.get((file.path, tensor.name)))
            else:
                name, here = _stretch(file, offset)
                place = _between(file.path, segment, offset - here[0], here, there.get(name))
            if place is not None:
                found.append(Pair(file_index, index, *place, tensor.dtype if tensor is not None else ""))
    return tuple(found)


def _homes(new: Recipe, old: Recipe) -> dict[tuple[str, str], _Home]:
    """Where each tensor of ``new`` was, by the path of its file and its name."""
    exact = {(home.path, home.tensor.name): home for home in _tensors(old)}
    by_name = {home.tensor.name: home for home in reversed(list(_tensors(old)))}
    found: dict[tuple[str, str], _Home] = {}
    left: list[_Home] = []
    for home in _tensors(new):
        key = (home.path, home.tensor.name)
        was = exact.get(key) or by_name.get(home.tensor.name)
        # One of the two may have more rows; what both have is compared.
        if was is not None and was.tensor.dtype == home.tensor.dtype:
            found[key] = was
        else:
            left.append(home)
    taken = {(was.path, was.tensor.offset) for was in found.values()}
    free: dict[tuple[str, int], list[_Home]] = {}
    for home in _tensors(old):
        if (home.path, home.tensor.offset) not in taken:
            free.setdefault((home.tensor.dtype, home.tensor.size), []).append(home)
    for home in left:
        same = free.get((home.tensor.dtype, home.tensor.size))
        if same:
            found[home.path, home.tensor.name] = same.pop(0)
    return found


def _tensors(recipe: Recipe) -> Iterator[_Home]:
    for file in recipe.files:
        for tensor in file.tensors:
            yield _Home(file.path, file.size, tensor)


def _in_tensor(segment: Segment, offset: int, tensor: Tensor, home: _Home | None) -> tuple[str, int, int] | None:
    if home is None:
        return None
    start = home.tensor.offset + offset - tensor.offset
    # The last block has the few bytes behind the tensor too; those of the old file will do.
    if start + segment.size > home.file_size:
        return None
    return home.path, start, segment.size


def _stretches(file: File) -> dict[str, tuple[int, int]]:
    """Bytes between tensors: start and end by the name of the tensor before; "" is the file's start."""
    ends = [0, *(tensor.offset + tensor.size for tensor in file.tensors)]
    return dict(_stretch(file, end) for end in ends)


def _stretch(file: File, offset: int) -> tuple[str, tuple[int, int]]:
    """The stretch that holds this byte, which is in no tensor: the name of the tensor before, start and end."""
    place = bisect.bisect_right(file.tensors, offset, key=lambda tensor: tensor.offset + tensor.size)
    end = file.tensors[place].offset if place < len(file.tensors) else file.size
    if place == 0:
        return "", (0, end)
    before = file.tensors[place - 1]
    return before.name, (before.offset + before.size, end)


def _between(
    path: str, segment: Segment, distance: int, here: tuple[int, int], there: tuple[int, int] | None
) -> tuple[str, int, int] | None:
    """``distance``: bytes from the start of the stretch to the segment."""
    if there is None or there[0] == there[1]:
        return None
    start = there[0] + distance
    if here[1] - here[0] == there[1] - there[0]:
        return path, start, segment.size
    first = max(there[0], start - _SLACK_BYTES)
    last = min(there[1], start + segment.size + _SLACK_BYTES)
    return (path, first, last - first) if first < last else None
