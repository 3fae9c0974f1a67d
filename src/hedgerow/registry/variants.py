"""Take one variant out of a bundle that has several: a bundle of its own, whose bytes follow from the whole one's.

A device fetches and keeps that one alone. Its manifest is made from the signed one by rule, so that nothing has to be
signed twice and every device gets the same identity. This module does no IO.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hedgerow.errors import UsageError
from hedgerow.registry.manifest import NEWEST, File, Manifest, Variant, upgrade
from hedgerow.registry.manifest_parts import is_shared


def names(manifest: Manifest) -> tuple[str, ...]:
    """The variants' names, the default first; one at least."""
    return tuple(variant.name for variant in upgrade(manifest).variants)


def take(manifest: Manifest, name: str) -> Manifest:
    """Return the manifest of variant ``name`` as a bundle of its own.

    Its files are the variant's, without the folder's name before them, and those of no variant; ``where_from`` says
    which file of the whole bundle each of them is. A bundle without variants is returned as it is.

    Raises:
        UsageError: there is no such variant.
    """
    variant = _find(manifest, name)
    if not manifest.variants:
        return manifest
    taken: dict[str, Any] = {"format": variant.format, "requires": variant.requires}
    for field in ("description", "quantization", "calibration", "hailo", "inputs", "outputs", "golden", "slo"):
        # What the variant leaves open is as the whole bundle has it, except what belongs to one build alone.
        own = getattr(variant, field)
        taken[field] = own or (None if field in _ONE_BUILD else getattr(manifest, field))
    paths = where_from(manifest, name)
    by_path = {file.path: file for file in manifest.files}
    files = tuple(File(path, by_path[whole].sha256, by_path[whole].size) for path, whole in paths.items())
    renamed = {whole: path for path, whole in paths.items()}
    # A proof of another variant says nothing here.
    proofs = tuple(
        msgspec.structs.replace(proof, path=renamed[proof.path]) for proof in manifest.proofs if proof.path in renamed
    )
    taken |= {"files": files, "proofs": proofs, "expectations": variant.expectations}
    return msgspec.structs.replace(manifest, schema=NEWEST, variants=(), variant=name, **taken)


def where_from(manifest: Manifest, name: str) -> dict[str, str]:
    """Path in the variant's own folder → path in the whole bundle, sorted.

    Raises:
        UsageError: there is no such variant.
    """
    variant = _find(manifest, name)
    folders = {each.folder for each in manifest.variants}
    prefix = f"{variant.folder}/"
    found = {}
    for file in manifest.files:
        if variant.folder and file.path.startswith(prefix):
            found[file.path.removeprefix(prefix)] = file.path
        elif is_shared(file.path, folders):
            found[file.path] = file.path
    return dict(sorted(found.items()))


_ONE_BUILD = ("quantization", "calibration", "hailo")


def _find(manifest: Manifest, name: str) -> Variant:
    for variant in upgrade(manifest).variants:
        if variant.name == name:
            return variant
    raise UsageError(
        f"{manifest.reference} has no variant {name!r}; it has {', '.join(names(manifest))}",
        next_step="name one of them",
    )
