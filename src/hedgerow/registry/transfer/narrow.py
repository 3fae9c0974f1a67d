"""The recipe of one variant of a bundle: the same chunks in the same packs, under the variant's own paths. Pure.

Patches are made between whole bundles. So an index of them is narrowed, too: on the side of the new version to the
files of the variant that is wanted, on the side of the old one to those of the variant that is here.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hedgerow.registry.transfer.recipe import PatchIndex, Recipe


def take(whole: Recipe, paths: Mapping[str, str]) -> Recipe:
    """``paths`` maps a path of the variant to that of the whole bundle (``registry.variants.where_from``).

    Raises:
        KeyError: the recipe has no such file; one that agrees with its manifest has them all.
    """
    by_path = {file.path: file for file in whole.files}
    files = tuple(msgspec.structs.replace(by_path[old], path=new) for new, old in paths.items())
    return msgspec.structs.replace(whole, files=files)


def numbers(whole: Recipe, paths: Mapping[str, str]) -> dict[int, int]:
    """Number of a file in ``whole`` → its number in ``take(whole, paths)``."""
    taken = {old: number for number, old in enumerate(paths.values())}
    return {number: taken[file.path] for number, file in enumerate(whole.files) if file.path in taken}


def index(whole: PatchIndex, new: Mapping[int, int] | None, old: Mapping[str, str] | None) -> PatchIndex:
    """``new`` as ``numbers`` has it, ``old`` maps a path of the whole old bundle to that of the variant which is here.

    None, on either side: the whole bundle. Patches between other files are left out.
    """
    places = {path: path for path in whole.paths} if old is None else old
    paths = tuple(sorted({places[path] for path in whole.paths if path in places}))
    blocks = [
        msgspec.structs.replace(
            block,
            file=block.file if new is None else new[block.file],
            old=paths.index(places[whole.paths[block.old]]),
        )
        for block in whole.blocks
        if (new is None or block.file in new) and whole.paths[block.old] in places
    ]
    return msgspec.structs.replace(whole, paths=paths, blocks=tuple(blocks))
