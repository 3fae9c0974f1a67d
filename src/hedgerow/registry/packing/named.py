"""What a recipe leads to: its packs, and through the indices of its patches those that hold these."""

from __future__ import annotations

from typing import Final

from hedgerow.errors import PublisherError
from hedgerow.registry.store import ObjectStore
from hedgerow.registry.transfer import codec, packs
from hedgerow.registry.transfer.recipe import Pack, Recipe, pack_path

_TARGETS: Final = "targets"


def named_packs(store: ObjectStore, recipe: Recipe) -> list[Pack]:
    """Every pack that the recipe leads to, those of its patches too.

    Raises:
        PublisherError: an index of patches is missing or damaged.
    """
    found = {pack.sha256: pack for pack in recipe.packs}
    for offer in recipe.patches:
        path = f"{_TARGETS}/{pack_path(recipe.packs[offer.index.pack].sha256)}"
        where = f"{store.where}, {path}"
        try:
            frame = store.read_range(path, offer.index.offset, offer.index.length)
        except FileNotFoundError as error:
            raise PublisherError(
                f"the patches of {recipe.reference} are missing", where=where, next_step="publish the bundle again"
            ) from error
        data = packs.unframe(frame, size=offer.index.size, sha256=offer.index.sha256, where=where)
        found |= {pack.sha256: pack for pack in codec.decode_index(data, where=where).packs}
    return list(found.values())
