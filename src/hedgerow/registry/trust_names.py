"""Names that the registry's two sides share: whoever signs a release, and the device that judges it. No dependencies.

- A release is a folder of targets, ``<folder of its kind>/<name>/<version>/``: the manifest, and the recipe of its
  transfer where it has one.
- Two roles vouch for it under the same paths: one that builds, one that approves. A bundle may have roles of its own
  (``build-model-assistant``); else those of its kind speak for it (``build-model``).
- ``*`` in a delegation's path matches within one segment only (The Update Framework specification 1.0, 4.5).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, Literal

Purpose = Literal["build", "approve"]

BUILD: Final = "build"
APPROVE: Final = "approve"
PURPOSES: Final[tuple[Purpose, ...]] = (BUILD, APPROVE)

KINDS: Final = MappingProxyType(
    {
        "model": "models",
        "adapter": "adapters",
        "runtime": "runtimes",
        "application": "applications",
        "configuration": "configurations",
    }
)
"""Kind of a bundle → folder of its targets."""

MANIFEST: Final = "manifest.json"
TRANSFER: Final = "transfer.json.zst"
RELEASE_FILES: Final = (MANIFEST, TRANSFER)

ISSUED: Final = "issued"
"""Field of every signed metadata: when it was signed, RFC 3339 in UTC. Devices take it for a floor of time."""
LOG: Final = "log"
"""Field of snapshot: ``{"entries": count, "sha256": hash of the last entry}`` of the promotion log."""


def folder(kind: str, name: str, version: str) -> str:
    """Where a release's targets lie; without a slash at its end.

    Raises:
        KeyError: there is no such kind.
    """
    return f"{KINDS[kind]}/{name}/{version}"


def target(kind: str, name: str, version: str, file: str = MANIFEST) -> str:
    """The target path of a release's file.

    Raises:
        KeyError: there is no such kind.
    """
    return f"{folder(kind, name, version)}/{file}"


def release(path: str) -> tuple[str, str, str] | None:
    """Kind, name and version of the release whose manifest ``path`` is; None for any other target."""
    match path.split("/"):
        case [place, name, version, last] if last == MANIFEST:
            return next(((kind, name, version) for kind, at in KINDS.items() if at == place), None)
    return None


def role(purpose: Purpose, kind: str, bundle: str | None = None) -> str:
    """The delegated role that builds or approves a kind, or one bundle of it. Kinds hold no ``-``: names are distinct.

    Raises:
        KeyError: there is no such kind.
    """
    if kind not in KINDS:
        raise KeyError(kind)
    return f"{purpose}-{kind}" if bundle is None else f"{purpose}-{kind}-{bundle}"


def parse_role(name: str) -> tuple[Purpose, str, str | None] | None:
    """Purpose, kind and bundle of a delegated role's name; None for any other role."""
    purpose, _, rest = name.partition("-")
    kind, separator, bundle = rest.partition("-")
    if kind not in KINDS or (separator and not bundle):
        return None
    for known in PURPOSES:
        if purpose == known:
            return known, kind, bundle or None
    return None


def is_approve(name: str) -> bool:
    """Whether a role is one that approves."""
    parsed = parse_role(name)
    return parsed is not None and parsed[0] == APPROVE


def paths(kind: str, bundle: str | None = None) -> list[str]:
    """Path patterns that are delegated to a role of this kind or bundle.

    Raises:
        KeyError: there is no such kind.
    """
    return [f"{KINDS[kind]}/{bundle or '*'}/*/*"]
