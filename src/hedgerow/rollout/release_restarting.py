"""A release that is no model: this tree's runtime, or the inventory's configuration; a model's questions judge it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from hedgerow import paths
from hedgerow.errors import RefusedError
from hedgerow.rollout import configuration, kinds, serving
from hedgerow.rollout import release as releases
from hedgerow.rollout.events import State
from hedgerow.rollout.plan import Release
from hedgerow.runtime import extras
from hedgerow.runtime import version as runtimes

LOOKED_BACK = 50
"""Rollouts that are read to learn which model hosts serve."""
RUNTIME_BYTES = 70_000_000
"""What a runtime's archive has, for the plan: it is built when the first host is visited, for that host's Python."""


def read(
    fleet: str,
    change: str,
    hosts: Mapping[str, Mapping[str, Any]],
    past: Iterable[State],
    *,
    planned: Iterable[str],
    model: str | None = None,
    stage: str = paths.DEFAULT_STAGE,
) -> Release:
    """What ``change`` (``runtime``, ``configuration``, or one with its expected version) is here and now.

    ``hosts`` are all of the fleet, with their variables; ``past`` the rollouts before, newest first, which say what the
    ``planned`` ones serve, unless ``model`` (``name@version``) does. Who serves another is refused in its turn.
    ``stage`` of the registry vouches for that model.

    Raises:
        UsageError, RefusedError: there is no such kind, it is another version than expected, or nobody knows which
            model is served, or hosts serve different ones.
        PublisherError: the registry does not vouch for the model.
    """
    kind, expected = kinds.parse(change)
    served = releases.read(fleet, model or served_model(planned, past), stage=stage)
    own: dict[str, str] = {}
    if kind == "runtime":
        asked = {host: extras.of_host(host, variables) for host, variables in hosts.items()}
        version, digest, own = _runtimes(asked)
        size = RUNTIME_BYTES + max(map(extras.size_bytes, asked.values()), default=0)
    else:
        digest, own = configuration.versions(hosts)
        version, size = digest[:12], 0
    if expected not in {None, version}:
        raise RefusedError(
            f"rule expected-version: {kind}:{expected} was asked for, and there is {kind}:{version}",
            where=f"this tree, with {extras.VARIABLE} in the inventory"
            if kind == "runtime"
            else "inference_runtime_server in the inventory",
            next_step=f"bring it back to what makes {kind}:{expected}, or release what there is: change={kind}",
        )
    return Release(
        bundle=f"{kind}:{version}",
        sha256=digest,
        size_bytes=size,
        probe=served.probe,
        probes=served.probes,
        slo=served.slo,
        tensor_types=served.tensor_types,
        kind=kind,
        model=served.bundle,
        model_sha256=served.sha256,
        versions=own,
        stage=stage,
        builds=served.builds,
    )


def _runtimes(asked: Mapping[str, tuple[str, ...]]) -> tuple[str, str, dict[str, str]]:
    """The release's version and hash, and host → its own version where hosts ask for different extras (``asked``)."""
    root = paths.repository_root()
    digests = {each: runtimes.source_digest(root, each) for each in {*asked.values()} or {()}}
    if len(digests) == 1:
        (digest,) = digests.values()
        return runtimes.named(root, digest), digest, {}
    digest = hashlib.sha256(json.dumps(sorted(digests.values())).encode()).hexdigest()
    own = {host: runtimes.named(root, digests[each]) for host, each in asked.items()}
    return runtimes.named(root, digest), digest, own


def served_model(hosts: Iterable[str], past: Iterable[State]) -> str:
    """The one model that ``hosts`` serve, as far as rollouts know; hosts that none has reached count for nothing.

    Raises:
        RefusedError: nobody knows one, or there are several.
    """
    found = serving.bundles(hosts, past)
    by_bundle: dict[str, list[str]] = {}
    for host, bundle in found.items():
        if bundle is not None:
            by_bundle.setdefault(bundle, []).append(host)
    if len(by_bundle) == 1:
        return next(iter(by_bundle))
    listed = "; ".join(f"{bundle}: {', '.join(sorted(names)[:5])}" for bundle, names in sorted(by_bundle.items()))
    raise RefusedError(
        "rule same-model: the hosts of the plan serve different models, and a gate asks the questions of one"
        if by_bundle
        else "rule same-model: no rollout knows which model the hosts of the plan serve",
        where=listed or None,
        next_step="narrow the plan to hosts that serve one (--limit), or name it: -e model=NAME@VERSION",
    )
