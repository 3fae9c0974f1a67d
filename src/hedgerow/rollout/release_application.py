"""A release of an application: a bundle of the registry's, judged by itself and by the model that its hosts serve."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from hedgerow import paths
from hedgerow.device.change import Change
from hedgerow.errors import RefusedError, UsageError
from hedgerow.registry import manifest as manifests
from hedgerow.registry import verify
from hedgerow.registry.authority.session import store_of_stage
from hedgerow.registry.manifest import Manifest
from hedgerow.registry.reference import Reference
from hedgerow.rollout import release as releases
from hedgerow.rollout.events import State
from hedgerow.rollout.plan import Release, Target
from hedgerow.rollout.release_restarting import served_model
from hedgerow.rollout.variants import ONLY, Variant

KIND = "application"
VARIABLE = "applications"
"""In the inventory: the names of those that a host runs (literal)."""


def is_one(fleet: str, bundle: str, *, stage: str = paths.DEFAULT_STAGE) -> bool:
    """Whether ``name@version`` is an application of the registry's, and no model.

    Raises:
        UsageError: it is not of that form, or there are both.
        PublisherError: as ``read``.
    """
    reference = Reference.parse(bundle)
    store = store_of_stage(fleet, stage)

    def has(kind: str) -> bool:
        try:
            verify.trusted(store, reference, kind=kind)
        except (RefusedError, UsageError):  # no such release, or nobody vouches for it; reading it says which
            return False
        return True

    if not has(KIND):
        return False
    if has("model"):
        raise UsageError(
            f"{bundle} is a model and an application",
            next_step=f"say which: change={KIND}:{bundle}; or publish the model under another name",
        )
    return True


def read(
    fleet: str,
    change: Change,
    past: Iterable[State],
    *,
    planned: Iterable[str],
    model: str | None = None,
    stage: str = paths.DEFAULT_STAGE,
) -> Release:
    """Find it in the registry of the fleet's ``stage``, and verify it as a device would.

    ``past`` are the rollouts before, newest first, which say what the ``planned`` hosts serve, unless ``model`` does.

    Raises:
        RefusedError: the registry has no such application; it has no unit; nobody knows which model is served, or hosts
            serve different ones.
        PublisherError: something that devices would fetch is missing or cut off.
    """
    reference = Reference(change.name, change.version)
    manifest, data = verify.fetchable(store_of_stage(fleet, stage), reference, kind=KIND)
    _require_unit(manifest)
    served = releases.read(fleet, model or served_model(planned, past), stage=stage)
    digest = manifests.digest(data)
    return Release(
        bundle=str(change),
        sha256=digest,
        size_bytes=manifest.size,
        probe=served.probe,
        probes=served.probes,
        slo=served.slo,
        tensor_types=served.tensor_types,
        kind="application",
        model=served.bundle,
        model_sha256=served.sha256,
        stage=stage,
        variants=[Variant(name=ONLY, requires=manifest.requires, sha256=digest, size_bytes=manifest.size)],
        builds=served.builds,
    )


def _require_unit(manifest: Manifest) -> None:
    if manifest.application is None or manifest.application.unit is None:
        raise RefusedError(
            f"rule unit-folder: {manifest.reference} is an OCI image as it was built; devices start what has a unit",
            next_step="pack the image again: hedgerow model pack-application IMAGE.tar",
        )


def held(targets: Iterable[Target], change: Change) -> list[Target]:
    """``targets``, of which those are held that the inventory does not have run it.

    Raises:
        RefusedError: it has nobody run it.
    """
    everyone = list(targets)
    if not any(change.name in each.applications for each in everyone):
        raise RefusedError(
            f"rule named-applications: no host runs {change.name}",
            where=f"{VARIABLE} in the inventory",
            next_step=f"name it for a group or a host ({VARIABLE}: [{change.name}]), then playbooks/site.yml",
        )
    return [
        each
        if change.name in each.applications or each.hold is not None
        else replace(each, hold=f"it does not run {change.name} ({VARIABLE} in the inventory)")
        for each in everyone
    ]


def of_inventory(name: str, said: object) -> tuple[str, ...]:
    """What a host runs, as its variable says.

    Raises:
        UsageError: that is no literal list of names.
    """
    if said is None:
        return ()
    if not isinstance(said, list) or not all(isinstance(each, str) and manifests.is_name(each) for each in said):
        raise UsageError(
            f"{VARIABLE} of {name} is {said!r}, no list of names",
            where=f"{VARIABLE} of {name}",
            next_step=f"write a literal list of bundles' names: {VARIABLE}: [kiosk]",
        )
    return tuple(said)
