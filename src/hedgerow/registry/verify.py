"""Walk a whole registry as a device would: from its first root, every bundle, every byte."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from hedgerow import atomic
from hedgerow.errors import HedgerowError, PublisherError, UsageError
from hedgerow.registry import manifest as manifests
from hedgerow.registry.bundle import verify_file
from hedgerow.registry.fetch import trusted_manifest
from hedgerow.registry.manifest import File, Manifest
from hedgerow.registry.reference import Reference
from hedgerow.registry.source import FolderSource


def trusted(store: Path, reference: Reference) -> tuple[Manifest, bytes]:
    """A bundle's manifest, vouched for by the folder store's metadata.

    Raises:
        UsageError: no registry, or it has no such bundle.
        RefusedError: the signatures do not hold.
    """
    root = store / "metadata" / "1.root.json"
    if not root.is_file():
        raise UsageError("there is no registry", where=str(store), next_step="hedgerow registry init")
    with tempfile.TemporaryDirectory() as trust:
        atomic.write_bytes(Path(trust) / "root.json", root.read_bytes())
        data = trusted_manifest(FolderSource(store), reference, trust_dir=Path(trust))
    return manifests.decode(data, where=reference.target), data


def verify(
    store: Path, references: list[Reference], *, on_bytes: Callable[[int], None] | None = None
) -> dict[Reference, list[HedgerowError]]:
    """Check every bundle; what is wrong with each, nothing where all is well."""
    return {reference: _wrong(store, reference, on_bytes) for reference in references}


def _wrong(store: Path, reference: Reference, on_bytes: Callable[[int], None] | None) -> list[HedgerowError]:
    try:
        manifest, _ = trusted(store, reference)
    except HedgerowError as error:
        return [error]
    found: list[HedgerowError] = []
    for file in manifest.files:
        try:
            # A blob lies under its hash; the manifest's path is only its name in the bundle.
            verify_file(store / "targets" / "blobs", File(file.sha256, file.sha256, file.size), on_bytes=on_bytes)
        except PublisherError as error:
            found.append(PublisherError(f"{file.path}: {error.what}", where=error.where))
    return found
