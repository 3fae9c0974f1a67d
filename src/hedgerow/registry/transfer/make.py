"""Describe a bundle that lies on this disk: its files as segments, without any pack.

For versions that came without a recipe: the publisher patches against them, and a device finds their chunks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hedgerow.registry.manifest import Manifest
from hedgerow.registry.transfer import chunking, layouts
from hedgerow.registry.transfer.recipe import MAX_CHUNK_BYTES, SCHEMA, File, Pack, Recipe, Segment

# Where the chunks of a described bundle "lie": a pack that nobody has.
NOWHERE: Final = Pack("0" * 64, MAX_CHUNK_BYTES)


def describe(directory: Path, manifest: Manifest) -> Recipe:
    """The recipe of the bundle in ``directory`` with every chunk in ``NOWHERE``; hashes of files are the manifest's.

    Raises:
        PublisherError: a file is shorter than the manifest says.
        OSError: a file cannot be read.
    """
    tensors = layouts.of_folder(directory, [file.path for file in manifest.files])
    files = []
    for file in manifest.files:
        with (directory / file.path).open("rb") as content:
            segments = tuple(
                Segment(chunk.sha256, len(chunk.data), 0, 0, len(chunk.data))
                for chunk in chunking.cut(content, file.size, tensors.get(file.path, ()))
            )
        files.append(File(file.path, file.sha256, file.size, segments, tensors.get(file.path, ())))
    return Recipe(SCHEMA, manifest.name, manifest.version, (NOWHERE,), tuple(files))
