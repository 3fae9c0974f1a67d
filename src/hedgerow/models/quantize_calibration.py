"""A set of inputs: what static quantization is calibrated with, and what two builds of a model are compared on.

A set is one ``.npz`` file or a folder of them, in the order of their names. The arrays of a file are named as the
model's inputs. Each file is one feed; where the model's first dimension is fixed and the arrays' is a multiple of
it, the file is cut into as many feeds. Nothing in it may be pickled.

The set's SHA-256 is of its content, not of its files: zip archives carry times. For each feed in order, for each input
in the order of names: name, dtype (NumPy's ``dtype.str``), shape and bytes, each preceded by its length as 8 bytes,
little-endian.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgerow.errors import UsageError

Array = NDArray[Any]
Feed = Mapping[str, Array]


@dataclass(frozen=True)
class Inputs:
    """Feeds, and the SHA-256 (hex) of their content. ``where`` names the file or folder."""

    feeds: tuple[Feed, ...]
    sha256: str
    where: str

    def fitted(self, shapes: Mapping[str, Sequence[int | str | None]]) -> tuple[Feed, ...]:
        """The feeds as a model takes them: its own inputs alone, cut along a fixed first dimension.

        ``shapes`` has every input of the model; a dimension that is no number is free.

        Raises:
            UsageError: an input is missing, or has another shape.
        """
        return tuple(part for feed in self.feeds for part in _cut(feed, shapes, self.where))


def load(place: Path) -> Inputs:
    """Read a set.

    Raises:
        UsageError: nothing there, no ``.npz``, an object array, or a value that is not finite.
    """
    files = sorted(place.glob("*.npz")) if place.is_dir() else [place]
    if not files:
        raise UsageError("no .npz file in this folder", where=str(place), next_step=_FORM)
    feeds = tuple(_read(file) for file in files)
    return Inputs(feeds, digest(feeds), str(place))


def digest(feeds: Sequence[Feed]) -> str:
    """SHA-256 (hex) of feeds, as the module's text defines it."""
    hasher = hashlib.sha256()
    for feed in feeds:
        for name in sorted(feed):
            array = np.ascontiguousarray(feed[name])
            for part in (name.encode(), array.dtype.str.encode(), repr(array.shape).encode(), array.tobytes()):
                hasher.update(len(part).to_bytes(8, "little"))
                hasher.update(part)
    return hasher.hexdigest()


def _read(file: Path) -> Feed:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            feed = {name: archive[name] for name in sorted(archive.files)}
    except (OSError, ValueError, zipfile.BadZipFile, TypeError, EOFError) as error:
        raise UsageError(f"not a readable .npz file: {error}", where=str(file), next_step=_FORM) from error
    if not feed:
        raise UsageError("this .npz file holds no array", where=str(file), next_step=_FORM)
    for name, array in feed.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UsageError(
                f"array {name!r} holds NaN or infinity", where=str(file), next_step="leave that sample out"
            )
    return feed


def _cut(feed: Feed, shapes: Mapping[str, Sequence[int | str | None]], where: str) -> Iterator[Feed]:
    missing = sorted(set(shapes) - set(feed))
    if missing:
        raise UsageError(
            f"the model's input {missing[0]!r} is in no array; these are: {', '.join(sorted(feed))}",
            where=where,
            next_step=_FORM,
        )
    parts = {_parts(name, feed[name], shapes[name], where) for name in shapes}
    count = max(parts)
    for name in shapes:
        if _parts(name, feed[name], shapes[name], where) != count:
            raise UsageError(f"input {name!r} has fewer samples than the others", where=where, next_step=_FORM)
    for number in range(count):
        yield {name: np.array_split(feed[name], count)[number] if count > 1 else feed[name] for name in shapes}


def _parts(name: str, array: Array, shape: Sequence[int | str | None], where: str) -> int:
    """How many feeds an array makes."""
    fits = len(array.shape) == len(shape) and all(
        not isinstance(want, int) or want == have for have, want in zip(array.shape[1:], shape[1:], strict=True)
    )
    first = shape[0] if shape else None
    if fits and (not isinstance(first, int) or (first > 0 and array.shape[0] > 0 and array.shape[0] % first == 0)):
        return array.shape[0] // first if isinstance(first, int) else 1
    raise UsageError(
        f"array {name!r} has shape {list(array.shape)}; the model takes {list(shape)}", where=where, next_step=_FORM
    )


_FORM = "see docs/proving-models.md: one .npz file or a folder of them, arrays named as the model's inputs"
