"""Which of a version's variants a host gets: one rule, for the plan and for the device itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import msgspec

from hedgerow.registry.manifest import Requires

NPU_MEMORY_MB = {"none": 0, "hat-plus-13": 0, "hat-plus-26": 0, "hat-plus-2": 8192}
"""RAM on each HAT: of Raspberry Pi's, AI HAT+ 2 alone has some (8 GB LPDDR4X; its product brief RP-009655-MM-4)."""


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


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What a host has; None: not known, which nothing is refused for. ``board`` as the inventory labels it."""

    hat: str | None = None
    memory_mb: int | None = None
    board: str | None = None
    machine: str | None = None


def choose(variants: Sequence[B], host: Traits) -> B | Misfit:
    """The best-fitting variant.

    Of those that fit: one made for the host's HAT before one for any, the fewer HATs the better (where the HAT is not
    known, one for any first, and then the more HATs the better); the same of its board; then the one that needs most
    memory, for it is the larger model (where the memory is not known, the one that needs least); then the smaller
    download; then the name.

    Raises:
        ValueError: There is no variant at all.
    """
    if not variants:
        raise ValueError("a version has one variant at least")
    misfits = {variant.name: _lack(variant.requires, host) for variant in variants}
    fitting = [variant for variant in variants if misfits[variant.name] is None]
    if not fitting:
        listed = "; ".join(f"{name} {lack}" if len(variants) > 1 else str(lack) for name, lack in misfits.items())
        return Misfit(listed)
    return min(fitting, key=lambda variant: _preference(variant, host))


def _preference(variant: Build, host: Traits) -> tuple[bool, int, bool, int, int, int, str]:
    needs = variant.requires
    larger = needs.memory_mb if host.memory_mb is None else -needs.memory_mb
    made_for = (*_made_for(needs.hat, host.hat), *_made_for(needs.board, host.board))
    return (*made_for, larger, variant.size_bytes, variant.name)


def _made_for(named: Sequence[str], has: str | None) -> tuple[bool, int]:
    return (bool(named), -len(named)) if has is None else (not named, len(named))


def _lack(needs: Requires, host: Traits) -> str | None:
    if needs.hat and host.hat is not None and host.hat not in needs.hat:
        return f"is for {' or '.join(needs.hat)}, the host has {host.hat}"
    if needs.board and host.board is not None and host.board not in needs.board:
        return f"is for board {' or '.join(needs.board)}, the host is {host.board}"
    if host.machine is not None and needs.machine not in {None, host.machine}:
        return f"is for {needs.machine}, the host is {host.machine}"
    if host.memory_mb is not None and needs.memory_mb > host.memory_mb:
        return f"needs {needs.memory_mb} MB of memory, the board has {host.memory_mb}"
    npu_mb = None if host.hat is None else NPU_MEMORY_MB.get(host.hat)
    if needs.npu_memory_mb is not None and npu_mb is not None and needs.npu_memory_mb > npu_mb:
        return f"needs {needs.npu_memory_mb} MB of memory on the HAT, {host.hat} has {npu_mb}"
    return None
