"""What must stay on a device, and why. Every question is asked of the disk, under the lock of whoever answers.

Kept: ``current`` and ``previous`` of every bundle; all that an activation under way names; what is pinned; the version
that was staged last, because it waits for its activation; the smaller model that a configuration of the server falls
back on; the base of a kept adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hedgerow import filelock
from hedgerow.device import links
from hedgerow.device.activation import LOCK, LOCK_WAIT_S
from hedgerow.device.change import Kind
from hedgerow.device.restarting import FILE
from hedgerow.device.store import records
from hedgerow.device.store.layout import Layout
from hedgerow.errors import HedgerowError
from hedgerow.registry import bundle as bundles
from hedgerow.registry.reference import Reference

_SMALLER = "smaller_model"  # of section `degradation` of server.yml


@dataclass(frozen=True)
class Places:
    """Where a device's versions of one ``kind`` and what names them lie.

    ``links_dir``: where the links of each name are, None for beside the versions.
    """

    layout: Layout
    activation_dir: Path
    configuration_dir: Path
    kind: Kind = "model"
    links_dir: Path | None = None

    @contextmanager
    def still(self) -> Iterator[None]:
        """Hold off activations: links do not move meanwhile."""
        self.activation_dir.mkdir(parents=True, exist_ok=True)
        with filelock.exclusive(
            self.activation_dir / LOCK, wait_s=LOCK_WAIT_S, work="removing versions from this device"
        ):
            yield


def kept(places: Places) -> dict[Reference, str]:
    """Versions that stay, and why; the caller holds ``still``.

    Raises:
        DeviceError: the pending activation or the pins cannot be read; then nothing may be removed.
    """
    layout = places.layout
    found: dict[Reference, str] = {}
    for name, version in records.read_used(layout).staged.items():
        found[Reference(name, version)] = "staged last"
    for reference in _smaller(places.configuration_dir) if places.kind == "model" else ():
        found[reference] = "smaller model of a configuration"
    found |= {reference: f"pinned: {reason}" for reference, reason in records.read_pins(layout).items()}
    pending = links.read_pending(places.activation_dir)
    if pending is not None and pending.kind == places.kind:
        for each in (pending.from_, pending.to, pending.previous):
            if each is not None:
                found[Reference(pending.name, each)] = "of an activation under way"
    found |= layout.linked(places.links_dir)
    here = list(layout.versions())
    for reference in [each for each in here if each in found]:
        base = _base(layout.version(reference))
        for other in here:
            if other.name == base:
                found.setdefault(other, f"base of {reference}")
    return found


def _base(folder: Path) -> str | None:
    """The name of the bundle that an adapter needs."""
    with suppress(HedgerowError):
        base = bundles.load(folder).manifest.base
        return None if base is None else base.name
    return None


def _smaller(folder: Path) -> Iterator[Reference]:
    for link in (links.CURRENT, links.PREVIOUS):
        with suppress(OSError, msgspec.DecodeError):
            for text in _named(msgspec.yaml.decode((folder / link / FILE).read_bytes())):
                with suppress(HedgerowError):
                    yield Reference.parse(text)


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == _SMALLER and isinstance(item, str):
                yield item
            else:
                yield from _named(item)
