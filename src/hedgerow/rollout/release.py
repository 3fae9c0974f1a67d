"""What the registry says of a bundle: read here, on the controller, before any host is touched."""

from __future__ import annotations

from contextlib import suppress
from typing import get_args

import msgspec

from hedgerow import paths
from hedgerow.errors import HedgerowError, RefusedError
from hedgerow.registry import manifest as manifests
from hedgerow.registry import variants as builds
from hedgerow.registry import verify
from hedgerow.registry.authority.session import store_of_stage
from hedgerow.registry.manifest import Manifest
from hedgerow.registry.probe import Probe
from hedgerow.registry.reference import Reference
from hedgerow.registry.store import ObjectStore
from hedgerow.rollout import kinds
from hedgerow.rollout.gate import probe
from hedgerow.rollout.plan import Release
from hedgerow.rollout.variants import Variant

MOST_PROBES = 50
MOST_PROBE_BYTES = 256 * 1024
"""Golden inputs that a gate puts to a host: a plan carries them, and every journal carries the plan. Pictures as JSON
have megabytes; a device puts all golden inputs to the model anyhow, before it serves it."""


def read(fleet: str, bundle: str, *, stage: str = paths.DEFAULT_STAGE) -> Release:
    """Find ``name@version`` in the registry of the fleet's ``stage`` and verify it as a device would.

    Signatures are checked, and that all that devices fetch is there with its size. Hashing gigabytes at every plan
    would only repeat what publishing has done and every device does.

    Raises:
        UsageError: It is not ``name@version``, or there is no such stage.
        RefusedError: The registry has no such bundle, its signatures do not hold, or it is no model.
        PublisherError: Something that devices would fetch is missing or cut off.
    """
    reference = Reference.parse(bundle)
    store = store_of_stage(fleet, stage)
    try:
        manifest, data = verify.fetchable(store, reference)
    except RefusedError as error:
        kind = _other_kind(store, reference)
        raise (error if kind is None else kinds.no_model(kind, str(reference))) from error
    offered = _variants(manifest, data)
    return Release(
        bundle=str(reference),
        sha256=manifests.digest(data),
        size_bytes=max(variant.size_bytes for variant in offered),
        stage=stage,
        probe=probe.choose(manifest),
        probes=_probes(manifest),
        slo=manifest.slo,
        tensor_types={tensor.name: tensor.dtype for tensor in manifest.inputs},
        variants=offered,
        builds=[variant.sha256 for variant in offered] if manifest.variants else [],
    )


def _other_kind(store: ObjectStore, reference: Reference) -> str | None:
    """Of which kind ``reference`` is, where it is a bundle of another than a model."""
    for kind in get_args(manifests.Kind):
        with suppress(HedgerowError):
            if kind != "model":
                return str(verify.trusted(store, reference, kind=kind)[0].kind)
    return None


def memory_mb(fleet: str, bundle: str, *, stage: str = paths.DEFAULT_STAGE) -> int | None:
    """What ``bundle`` needs, its largest variant; None where this stage does not vouch for it (any more)."""
    try:
        manifest, data = verify.trusted(store_of_stage(fleet, stage), Reference.parse(bundle))
    except HedgerowError:
        return None
    return max(variant.requires.memory_mb for variant in _variants(manifest, data))


def _variants(manifest: Manifest, data: bytes) -> list[Variant]:
    """Every build, with the identity that it has on a device: the hash of the manifest that is taken out for it."""
    found = []
    for name in builds.names(manifest):
        taken = builds.take(manifest, name)
        own = data if not manifest.variants else manifests.encode(taken)
        variant = Variant(name=name, requires=taken.requires, sha256=manifests.digest(own), size_bytes=taken.size)
        found.append(variant)
    return found


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
