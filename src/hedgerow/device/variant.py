"""Which variant of a bundle this device takes: the one that it is told, or the best for its own hardware."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass

from hedgerow.device import hardware
from hedgerow.errors import RefusedError
from hedgerow.registry import variants
from hedgerow.registry.fitting import Misfit, Traits, choose
from hedgerow.registry.manifest import ONLY, Manifest, Requires


@dataclass(frozen=True)
class _Build:
    name: str
    requires: Requires
    size_bytes: int


def picker(told: str | None) -> Callable[[Manifest], str]:
    """What names the variant of a manifest; ``told`` leads. Reads the hardware only where it has to."""
    return lambda manifest: best(manifest) if told is None else told


def best(manifest: Manifest) -> str:
    """The best-fitting variant's name, by the same rule as a rollout's plan.

    Raises:
        RefusedError: none fits this board.
    """
    found = hardware.read(with_hailortcli=False, disk_paths=())
    builds = [_build(manifest, name) for name in variants.names(manifest)]
    # What inventories call a board it does not know itself; a rollout, which does, names the variant.
    here = Traits(hat=found["hat"]["kind"], memory_mb=found["board"]["memory_mb"], machine=platform.machine())
    chosen = choose(builds, here)
    if isinstance(chosen, Misfit):
        raise RefusedError(
            f"no variant of {manifest.reference} fits this device: {chosen.reason} (rule: compatible)",
            where="the board's HAT, memory and architecture",
            next_step=f"name one all the same: hedgerow-device stage {manifest.reference} --variant NAME",
        )
    return chosen.name


def is_of(manifest: Manifest, told: str | None) -> bool:
    """Whether a bundle that is here is one variant alone, and the one that was ``told``."""
    return not manifest.variants and told in {None, manifest.variant or ONLY}


def _build(manifest: Manifest, name: str) -> _Build:
    taken = variants.take(manifest, name)
    return _Build(name, taken.requires, taken.size)
