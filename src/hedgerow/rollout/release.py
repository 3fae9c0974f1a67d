"""What the registry says of a bundle: read here, on the controller, before any host is touched."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hedgerow import paths
from hedgerow.errors import HedgerowError, PublisherError
from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import Manifest
from hedgerow.registry.probe import Probe
from hedgerow.registry.publish import BLOBS
from hedgerow.registry.reference import Reference
from hedgerow.registry.verify import trusted
from hedgerow.rollout.gate import probe
from hedgerow.rollout.plan import Release
from hedgerow.rollout.variants import ONLY, Variant

MOST_PROBES = 50
MOST_PROBE_BYTES = 256 * 1024
"""Golden inputs that a gate puts to a host: a plan carries them, and every journal carries the plan. Pictures as JSON
have megabytes; a device puts all golden inputs to the model anyhow, before it serves it."""


def read(fleet: str, bundle: str) -> Release:
    """Find ``name@version`` in the fleet's registry and verify it as a device would.

    Signatures are checked, and that every file is there with its size. Hashing gigabytes at every plan would only
    repeat what publishing has done and every device does.

    Raises:
        UsageError: It is not ``name@version``, or there is no registry.
        RefusedError: The registry has no such bundle, or its signatures do not hold.
        PublisherError: A file of the bundle is missing or cut off.
    """
    reference = Reference.parse(bundle)
    store = paths.fleet_dir(fleet) / "registry"
    manifest, data = trusted(store, reference)
    _require_files(store, manifest)
    digest = manifests.digest(data)
    return Release(
        bundle=str(reference),
        sha256=digest,
        size_bytes=manifest.size,
        probe=probe.choose(manifest),
        probes=_probes(manifest),
        slo=manifest.slo,
        tensor_types={tensor.name: tensor.dtype for tensor in manifest.inputs},
        variants=[Variant(name=ONLY, requires=manifest.requires, sha256=digest, size_bytes=manifest.size)],
    )


def memory_mb(fleet: str, bundle: str) -> int | None:
    """What ``bundle`` needs; None where this fleet's registry does not vouch for it (any more)."""
    try:
        manifest, _ = trusted(paths.fleet_dir(fleet) / "registry", Reference.parse(bundle))
    except HedgerowError:
        return None
    return manifest.requires.memory_mb


def _probes(manifest: Manifest) -> list[Probe]:
    """The first golden inputs that fit, in the bundle's order; none where not one does: then it is ``probe`` alone."""
    chosen: list[Probe] = []
    left = MOST_PROBE_BYTES
    for golden in manifest.golden:
        size = len(msgspec.json.encode(golden))
        if size <= left and len(chosen) < MOST_PROBES:
            chosen.append(golden)
            left -= size
    return chosen


def _require_files(store: Path, manifest: Manifest) -> None:
    for file in manifest.files:
        path = store / BLOBS / file.sha256
        size = path.stat().st_size if path.is_file() else None
        if size != file.size:
            state = "is not in the registry" if size is None else f"has {size} bytes there, not {file.size}"
            raise PublisherError(
                f"{file.path} of {manifest.reference} {state}",
                where=str(path),
                next_step="publish the bundle again: hedgerow registry publish BUNDLE",
            )
