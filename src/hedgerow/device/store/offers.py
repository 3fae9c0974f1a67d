"""What is known before a plan is made: chunks that are here, and the registry's patches for versions that are here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress

from hedgerow.device.store import holdings, planner
from hedgerow.device.store.layout import Layout
from hedgerow.device.store.planner import Frame, Known, Patches
from hedgerow.device.store.receive import Receiver
from hedgerow.errors import HedgerowError
from hedgerow.registry import manifest as manifests
from hedgerow.registry import variants
from hedgerow.registry.bundle import Bundle
from hedgerow.registry.reference import Reference
from hedgerow.registry.transfer import codec, narrow, packs
from hedgerow.registry.transfer.recipe import Offer, PatchIndex, Recipe, pack_path

# Versions that are here and that the registry has patches from; a third one would seldom add anything.
_MOST = 2


def known(
    recipe: Recipe,
    layout: Layout,
    receiver: Receiver,
    done: Collection[tuple[int, int]],
    *,
    numbers: Mapping[int, int] | None = None,
) -> Known:
    """What is here of ``recipe``'s version. An index of patches is fetched where they may save more than it costs.

    ``numbers``: of files, where the recipe is of one variant (``wanted.Route``).

    Raises:
        PublisherError, NetworkError: as ``Receiver.receive``.
    """
    here = holdings.bundles_here(layout)
    chunks = Known(holdings.chunks_here(layout, recipe, here), (), done)
    missing = planner.fetched_at_most(recipe, chunks)
    found = []
    for offer, paths in _fitting(recipe, layout, here)[:_MOST]:
        # Of a variant nobody knows how much of all patches is its own, before the index tells.
        patches = offer.size if numbers is None else 0
        if patches + offer.index.length < missing:
            index = narrow.index(_index(recipe, offer, receiver), numbers, paths)
            found.append(Patches(str(Reference(recipe.name, offer.version)), index))
    return Known(chunks.chunks, tuple(found), done)


def _fitting(
    recipe: Recipe, layout: Layout, here: dict[Reference, Bundle]
) -> list[tuple[Offer, dict[str, str] | None]]:
    """Offers for versions that are here, the smallest first, and where files of that whole bundle lie (None: there)."""
    found: list[tuple[Offer, dict[str, str] | None]] = []
    for offer in sorted(recipe.patches, key=lambda offer: offer.size):
        reference = Reference(recipe.name, offer.version)
        bundle = here.get(reference)
        if bundle is None:
            continue
        if bundle.sha256 == offer.manifest_sha256:
            found.append((offer, None))
            continue
        with suppress(HedgerowError, OSError):
            data = layout.signed(reference).read_bytes()
            if bundle.manifest.variant is not None and manifests.digest(data) == offer.manifest_sha256:
                signed = manifests.decode(data, where=str(layout.signed(reference)))
                paths = variants.where_from(signed, bundle.manifest.variant)
                found.append((offer, {whole: own for own, whole in paths.items()}))
    return found


def _index(recipe: Recipe, offer: Offer, receiver: Receiver) -> PatchIndex:
    place = offer.index
    found: list[PatchIndex] = []

    def take(frame: Frame, data: bytes) -> None:
        where = f"targets/{pack_path(frame.pack)}"
        content = packs.unframe(data, size=place.size, sha256=place.sha256, where=where)
        found.append(codec.decode_index(content, where=where))

    receiver.receive([Frame(recipe.packs[place.pack].sha256, place.offset, place.length)], take)
    return found[0]
