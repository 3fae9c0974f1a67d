"""From an inventory, as ``hedgerow`` or Ansible sees it, to what the solver judges. Reads key files, asks no host."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hedgerow.errors import UsageError
from hedgerow.inventory.model import FleetRelease, Host
from hedgerow.registry.manifest import Manifest
from hedgerow.release import openpgp
from hedgerow.release.model import Bundle, Combination, Source

# What of a host's variables the rules look at; an action plugin renders these and no others.
HOST_KEYS = (
    "ansible_host",
    "site",
    "pi_serial",
    "hat",
    "cooling",
    "storage",
    "labels",
    "emulated",
    "board_memory_mb",
    "hat_module_options",
)
SOURCE_KEYS = ("os_pinning_sources", "os_pinning_sources_group", "os_pinning_sources_host")
_DEFAULT_MEMORY_MB = 8192


def combination(
    release: FleetRelease,
    hosts: Mapping[str, Host],
    *,
    folder: Path,
    bundle: Manifest | None = None,
    odd_binaries: Mapping[str, int] | None = None,
    now: float | None = None,
) -> Combination:
    """Everything about a fleet that the rules look at. ``folder`` is where relative paths of key files begin.

    Raises:
        UsageError: a key file cannot be read.
    """
    listed = [entry for host in hosts.values() for key in SOURCE_KEYS for entry in host.vars.get(key) or ()]
    return Combination(
        release=release,
        hosts=hosts,
        sources=tuple(sources(listed, folder)),
        bundle=None if bundle is None else of_bundle(bundle),
        driver_options={
            name: {str(key): str(value) for key, value in (host.vars.get("hat_module_options") or {}).items()}
            for name, host in hosts.items()
        },
        memory_mb={name: int(host.vars.get("board_memory_mb", _DEFAULT_MEMORY_MB)) for name, host in hosts.items()},
        odd_binaries=odd_binaries,
        now=time.time() if now is None else now,
    )


def lock(document: Any, *, where: str) -> FleetRelease:
    """A version lock with its types.

    Raises:
        UsageError: a row is missing, misspelt or of another type.
    """
    try:
        return msgspec.convert(document, FleetRelease)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"fleet_release is wrong: {error}", where=where, next_step='docs/contracts.md, "Version lock"'
        ) from error


def sources(listed: Iterable[Mapping[str, Any]], folder: Path) -> Sequence[Source]:
    """Archives, each once, with the end of its key. Unrendered entries are left to Ansible's own check."""
    found: dict[str, Source] = {}
    for entry in listed:
        name, key = str(entry.get("name")), str(entry.get("key"))
        if name in found or "{{" in key:
            continue
        path = folder / key
        try:
            ends = openpgp.expiry(path.read_bytes())
        except (OSError, ValueError) as error:
            raise UsageError(
                f"the key of the archive {name} cannot be read: {error}",
                where=str(path),
                next_step="put the archive's public key there (os_pinning_sources)",
            ) from error
        found[name] = Source(name, tuple(entry.get("uris") or ()), tuple(entry.get("suites") or ()), ends)
    return tuple(found.values())


def of_bundle(manifest: Manifest) -> Bundle:
    """What of a manifest the rules look at."""
    needs = manifest.requires
    return Bundle(manifest.reference, manifest.format, needs.hat, needs.hailort, needs.firmware, needs.runtime)
