"""What is to lie on the device: what the registry's signatures vouch for, or the one variant of it that it takes.

The variant's manifest and recipe follow from the signed ones by rule (``registry.variants``), so nothing has to be
signed twice, and the same variant has the same identity on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hedgerow.device.store.terms import Registry
from hedgerow.errors import RefusedError
from hedgerow.registry import manifest as manifests
from hedgerow.registry import variants
from hedgerow.registry.manifest import Manifest
from hedgerow.registry.reference import Reference
from hedgerow.registry.transfer import codec, narrow
from hedgerow.registry.transfer import recipe as recipes
from hedgerow.registry.transfer.recipe import Recipe


@dataclass(frozen=True)
class Wanted:
    """``manifest`` is what the device gets, ``data`` its bytes; ``variant`` says what of the ``signed`` one it is.

    ``variant`` None: the whole of it, which has no variants.
    """

    reference: Reference
    manifest: Manifest
    data: bytes
    signed: Manifest
    variant: str | None = None

    def recipe(self, registry: Registry) -> tuple[Recipe, bytes]:
        """How it is put together, and the bytes to remember that by.

        Raises:
            RefusedError, NetworkError: the registry's.
            PublisherError: it does not say the same files as the manifest.
        """
        data = registry.transfer(self.reference)
        whole = codec.decode(data, where=recipes.target(self.reference))
        recipes.check_agrees(whole, self.signed)
        if self.variant is None:
            return whole, data
        taken = narrow.take(whole, variants.where_from(self.signed, self.variant))
        return taken, codec.encode(taken)


def find(registry: Registry, reference: Reference, pick: Callable[[Manifest], str]) -> Wanted:
    """Ask the registry; ``pick`` names the variant of a bundle that has several.

    Raises:
        RefusedError, NetworkError: the registry's; a manifest in another's place; no variant for this device.
        PublisherError: the manifest breaks a rule.
        UsageError: there is no variant of that name.
    """
    data = registry.manifest(reference)
    signed = manifests.decode(data, where=reference.target)
    if signed.reference != str(reference):
        raise RefusedError(f"{reference.target} describes {signed.reference}", where=reference.target)
    if not signed.variants:
        return Wanted(reference, signed, data, signed)
    variant = pick(signed)
    taken = variants.take(signed, variant)
    return Wanted(reference, taken, manifests.encode(taken), signed, variant)
