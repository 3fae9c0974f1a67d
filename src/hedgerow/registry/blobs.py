"""A bundle's files under their own hashes: how every registry holds them whole. Packs lie beside them."""

from __future__ import annotations

from typing import Final

from hedgerow.registry.bundle import Bundle
from hedgerow.registry.store import Store

FOLDER: Final = "targets/blobs"


def path(sha256: str) -> str:
    """Where a file with this content lies in a store."""
    return f"{FOLDER}/{sha256}"


def put(store: Store, bundle: Bundle) -> int:
    """Bring the bundle's files that the store lacks; how many bytes that were.

    What is there is read, not believed: publishing again is how a damaged registry is mended.
    """
    written = 0
    for file in bundle.manifest.files:
        if not store.holds(path(file.sha256), size=file.size, sha256=file.sha256):
            store.put_file(path(file.sha256), bundle.directory / file.path)
            written += file.size
    return written
