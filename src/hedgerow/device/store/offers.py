"""What is known before a plan is made: chunks that are here, and the registry's patches for versions that are here."""

from __future__ import annotations

from collections.abc import Collection

from hedgerow.device.store import holdings, planner
from hedgerow.device.store.layout import Layout
from hedgerow.device.store.planner import Frame, Known, Patches
from hedgerow.device.store.receive import Receiver
from hedgerow.registry.bundle import Bundle
from hedgerow.registry.reference import Reference
from hedgerow.registry.transfer import codec, packs
from hedgerow.registry.transfer.recipe import Offer, PatchIndex, Recipe, pack_path

# Versions that are here and that the registry has patches from; a third one would seldom add anything.
_MOST = 2


def known(recipe: Recipe, layout: Layout, receiver: Receiver, done: Collection[tuple[int, int]]) -> Known:
    """What is here of ``recipe``'s version. An index of patches is fetched where they may save more than it costs.

    Raises:
        PublisherError, NetworkError: as ``Receiver.receive``.
    """
    here = holdings.bundles_here(layout)
    chunks = Known(holdings.chunks_here(layout, recipe, here), (), done)
    missing = planner.fetched_at_most(recipe, chunks)
    fitting = sorted((offer for offer in recipe.patches if _fits(recipe, offer, here)), key=lambda offer: offer.size)
    found = []
    for offer in fitting[:_MOST]:
        if offer.size + offer.index.length < missing:
            index = _index(recipe, offer, receiver)
            found.append(Patches(str(Reference(recipe.name, offer.version)), index))
    return Known(chunks.chunks, tuple(found), done)


def _fits(recipe: Recipe, offer: Offer, here: dict[Reference, Bundle]) -> bool:
    bundle = here.get(Reference(recipe.name, offer.version))
    return bundle is not None and bundle.sha256 == offer.manifest_sha256


def _index(recipe: Recipe, offer: Offer, receiver: Receiver) -> PatchIndex:
    place = offer.index
    found: list[PatchIndex] = []

    def take(frame: Frame, data: bytes) -> None:
        where = f"targets/{pack_path(frame.pack)}"
        content = packs.unframe(data, size=place.size, sha256=place.sha256, where=where)
        found.append(codec.decode_index(content, where=where))

    receiver.receive([Frame(recipe.packs[place.pack].sha256, place.offset, place.length)], take)
    return found[0]
