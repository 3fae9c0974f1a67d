"""What the registry says of a bundle: read here, on the controller, before any host is touched."""

from __future__ import annotations

from hedgerow import paths
from hedgerow.errors import UsageError
from hedgerow.registry import manifest as manifests
from hedgerow.registry.reference import Reference
from hedgerow.rollout import probe
from hedgerow.rollout.plan import Release


def read(fleet: str, bundle: str) -> Release:
    """Find and verify ``name@version`` in the fleet's registry.

    Raises:
        UsageError: It is not ``name@version``, or not published.
        PublisherError: The signatures or hashes do not hold.
    """
    reference = Reference.parse(bundle)
    path = paths.fleet_dir(fleet) / "registry" / "targets" / reference.target
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(
            f"{reference} is not in the registry", where=str(path), next_step="hedgerow registry publish BUNDLE"
        ) from error
    manifest = manifests.decode(data, where=str(path))
    return Release(
        bundle=str(reference),
        sha256=manifests.digest(data),
        size_bytes=manifest.size,
        probe=probe.choose(manifest),
        tensor_types={tensor.name: tensor.dtype for tensor in manifest.inputs},
    )
