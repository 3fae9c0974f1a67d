"""The recipe of one variant of a bundle: the same chunks in the same packs, under the variant's own paths. Pure.

Patches are left out: they are made between whole bundles, and a device that keeps one variant has no whole bundle whose
files they could name. Chunks that are here are found all the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hedgerow.registry.transfer.recipe import Recipe


def take(whole: Recipe, paths: Mapping[str, str]) -> Recipe:
    """``paths`` maps a path of the variant to that of the whole bundle (``registry.variants.where_from``).

    Raises:
        KeyError: the recipe has no such file; one that agrees with its manifest has them all.
    """
    by_path = {file.path: file for file in whole.files}
    files = tuple(msgspec.structs.replace(by_path[old], path=new) for new, old in paths.items())
    return msgspec.structs.replace(whole, files=files, patches=())
