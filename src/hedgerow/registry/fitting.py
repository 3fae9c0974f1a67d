"""Which of a version's variants a host gets: one rule, for the plan and for the device itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import msgspec

from hedgerow.registry.manifest import Requires


class Build(Protocol):
    """What the rule asks of a variant. ``size_bytes``: all that a host has to fetch of it at the most."""

    @property
    def name(self) -> str: ...
    @property
    def requires(self) -> Requires: ...
    @property
    def size_bytes(self) -> int: ...


B = TypeVar("B", bound=Build)


class Misfit(msgspec.Struct, frozen=True):
    """No variant fits; ``reason`` says why the nearest one does not."""

    reason: str


def choose(variants: Sequence[B], *, hat: str | None, memory_mb: int | None) -> B | Misfit:
    """The best-fitting variant. ``hat`` and ``memory_mb`` None: not known, which nothing is refused for.

    Of those that fit: one made for the host's HAT before one for any board, the fewer HATs the better (where the HAT is
    not known, one for any board first, and then the more HATs the better); then the one that needs most memory, for it
    is the larger model (where the memory is not known, the one that needs least); then the smaller download; then the
    name.

    Raises:
        ValueError: There is no variant at all.
    """
    if not variants:
        raise ValueError("a version has one variant at least")
    misfits = {variant.name: _lack(variant.requires, hat, memory_mb) for variant in variants}
    fitting = [variant for variant in variants if misfits[variant.name] is None]
    if not fitting:
        listed = "; ".join(f"{name} {lack}" if len(variants) > 1 else str(lack) for name, lack in misfits.items())
        return Misfit(listed)
    return min(fitting, key=lambda variant: _preference(variant, hat, memory_mb))


def _preference(variant: Build, hat: str | None, memory_mb: int | None) -> tuple[bool, int, int, int, str]:
    needs = variant.requires
    larger = needs.memory_mb if memory_mb is None else -needs.memory_mb
    if hat is None:
        return (bool(needs.hat), -len(needs.hat), larger, variant.size_bytes, variant.name)
    return (not needs.hat, len(needs.hat), larger, variant.size_bytes, variant.name)


def _lack(needs: Requires, hat: str | None, memory_mb: int | None) -> str | None:
    if needs.hat and hat is not None and hat not in needs.hat:
        return f"is for {' or '.join(needs.hat)}, the host has {hat}"
    if memory_mb is not None and needs.memory_mb > memory_mb:
        return f"needs {needs.memory_mb} MB of memory, the board has {memory_mb}"
    return None
