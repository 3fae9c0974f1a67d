"""What is on this device of a version that is to come: chunks in other versions, by their recipes.

A recipe only says where to look; every chunk is verified when it is read. So a recipe here needs no signature, and one
that is wrong costs bytes on the line and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from hedgerow import atomic
from hedgerow.device.store.layout import RECIPE, Layout
from hedgerow.device.store.planner import Place
from hedgerow.errors import HedgerowError
from hedgerow.registry import bundle as bundles
from hedgerow.registry.bundle import Bundle
from hedgerow.registry.reference import Reference
from hedgerow.registry.transfer import codec, make
from hedgerow.registry.transfer import recipe as recipes
from hedgerow.registry.transfer.recipe import Recipe


def bundles_here(layout: Layout) -> dict[Reference, Bundle]:
    """Every version whose manifest can be read."""
    found = {}
    for reference in layout.versions():
        with suppress(HedgerowError, OSError):
            found[reference] = bundles.load(layout.version(reference))
    return found


def chunks_here(layout: Layout, recipe: Recipe, here: dict[Reference, Bundle]) -> dict[str, list[Place]]:
    """Places that should have chunks of ``recipe``: finished versions first, those of the same bundle before others.

    A version that came without a recipe is cut here, if it is one of the same bundle: that takes about as long as
    hashing it four times, and spares what it has of the line.
    """
    wanted = {segment.sha256 for file in recipe.files for segment in file.segments}
    found: dict[str, list[Place]] = {}

    def add(reference: Reference, other: Recipe, *, finished: bool = True) -> None:
        for place in _places(str(reference), other, wanted, finished=finished):
            found.setdefault(place.sha256, []).append(place)

    for reference, bundle in sorted(here.items(), key=lambda item: (item[0].name != recipe.name, str(item[0]))):
        other = _recipe(layout, reference, bundle, may_cut=reference.name == recipe.name)
        if other is not None:
            add(reference, other)
        else:
            _whole_files(reference, bundle, recipe, found)
    for reference in layout.unfinished():
        if str(reference) != recipe.reference:
            with suppress(HedgerowError, OSError):
                data = (layout.partial(reference) / RECIPE).read_bytes()
                add(reference, codec.decode(data, where=str(layout.partial(reference))), finished=False)
    return found


def _recipe(layout: Layout, reference: Reference, bundle: Bundle, *, may_cut: bool) -> Recipe | None:
    path = layout.recipe(reference)
    with suppress(HedgerowError, OSError):
        recipe = codec.decode(path.read_bytes(), where=str(path))
        recipes.check_agrees(recipe, bundle.manifest)
        return recipe
    if not may_cut:
        return None
    with suppress(HedgerowError, OSError):
        recipe = make.describe(bundle.directory, bundle.manifest)
        recipes.check_agrees(recipe, bundle.manifest)
        atomic.write_bytes(path, codec.encode(recipe))
        return recipe
    return None


def _whole_files(reference: Reference, bundle: Bundle, recipe: Recipe, found: dict[str, list[Place]]) -> None:
    """Files that another bundle has, too, byte by byte: found without cutting anything."""
    same = {file.sha256: file.path for file in bundle.manifest.files}
    for file in recipe.files:
        path = same.get(file.sha256)
        if path is not None:
            for segment, offset in zip(file.segments, file.offsets(), strict=True):
                place = Place(str(reference), path, offset, segment.size, segment.sha256)
                found.setdefault(segment.sha256, []).append(place)


def _places(reference: str, recipe: Recipe, wanted: set[str], *, finished: bool) -> Iterator[Place]:
    for file in recipe.files:
        for segment, offset in zip(file.segments, file.offsets(), strict=True):
            if segment.sha256 in wanted:
                yield Place(reference, file.path, offset, segment.size, segment.sha256, finished)
