"""What is to lie on the device: what the registry's signatures vouch for, or the one variant of it that it takes.

The variant's manifest and recipe follow from the signed ones by rule (``registry.variants``), so nothing has to be
signed twice, and the same variant has the same identity on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hedgerow.device.store.terms import Registry
from hedgerow.errors import RefusedError
from hedgerow.registry import manifest as manifests
from hedgerow.registry import trust_names as names
from hedgerow.registry import variants
from hedgerow.registry.manifest import Manifest
from hedgerow.registry.reference import Reference
from hedgerow.registry.transfer import codec, narrow
from hedgerow.registry.transfer import recipe as recipes
from hedgerow.registry.transfer.recipe import Recipe


@dataclass(frozen=True)
class Route:
    """How a version is put together: its recipe, and the bytes to remember that by.

    ``numbers``: number of a file in the recipe of the whole bundle → in this one; None: this is the whole one.
    """

    recipe: Recipe
    data: bytes
    numbers: Mapping[int, int] | None = None


@dataclass(frozen=True)
class Wanted:
    """``manifest`` is what the device gets, ``data`` its bytes; ``variant`` says what of the ``signed`` bytes it is.

    ``variant`` None: the whole of it, which has no variants.
    """

    reference: Reference
    manifest: Manifest
    data: bytes
    signed: bytes
    variant: str | None = None

    def route(self, registry: Registry) -> Route:
        """Ask the registry how it is put together.

        Raises:
            RefusedError, NetworkError: the registry's.
            PublisherError: it does not say the same files as the manifest.
        """
        kind, reference = self.manifest.kind, self.reference
        data = registry.transfer(reference, kind)
        whole = codec.decode(data, where=names.target(kind, reference.name, reference.version, names.TRANSFER))
        signed = manifests.decode(self.signed, where=names.target(kind, reference.name, reference.version))
        recipes.check_agrees(whole, signed)
        if self.variant is None:
            return Route(whole, data)
        paths = variants.where_from(signed, self.variant)
        taken = narrow.take(whole, paths)
        return Route(taken, codec.encode(taken), narrow.numbers(whole, paths))


def find(registry: Registry, reference: Reference, pick: Callable[[Manifest], str], *, kind: str = "model") -> Wanted:
    """Ask the registry for a bundle of a ``kind``; ``pick`` names the variant of one that has several.

    Raises:
        RefusedError, NetworkError: the registry's; a manifest in another's place; no variant for this device.
        PublisherError: the manifest breaks a rule.
        UsageError: there is no variant of that name.
    """
    data = registry.manifest(reference, kind)
    where = names.target(kind, reference.name, reference.version)
    signed = manifests.decode(data, where=where)
    if signed.reference != str(reference):
        raise RefusedError(f"{where} describes {signed.reference}", where=where)
    if not signed.variants:
        return Wanted(reference, signed, data, data)
    variant = pick(signed)
    taken = variants.take(signed, variant)
    return Wanted(reference, taken, manifests.encode(taken), data, variant)
