"""Which variant of a version a host gets, and whether old and new fit into its memory together. Pure.

A bundle of today is one variant: its manifest's own ``requires``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from hedgerow.registry.manifest import Requires

ONLY = "default"
"""Name of the variant of a bundle that has no others."""

START_S = 10.0
"""Within which a server has its model in service (the gate's own limit for a start)."""

READ_MB_S = {"sd": 90.0, "usb-ssd": 300.0, "nvme": 400.0}
"""What a Pi 5 reads in a row: an SD card in SDR104 (104 MB/s on the bus), USB 3.0 (5 Gb/s, half of it after coding and
protocol), one PCIe 2.0 lane (500 MB/s). The declared outage is for planning; the journal has the measured one."""


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One build of a version. ``sha256`` of its manifest; ``size_bytes`` a host fetches at most."""

    name: str
    requires: Requires
    sha256: str
    size_bytes: int


class Misfit(msgspec.Struct, frozen=True):
    """No variant fits; ``reason`` says why the nearest one does not."""

    reason: str


class Memory(msgspec.Struct, frozen=True):
    """Whether old and new stand side by side. ``outage_s``: how long nothing serves; ``unknown``: which size is."""

    state: Literal["fits", "outage", "unknown"]
    outage_s: int | None = None
    unknown: str | None = None


def choose(variants: Sequence[Variant], *, hat: str | None, memory_mb: int | None) -> Variant | Misfit:
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


def _preference(variant: Variant, hat: str | None, memory_mb: int | None) -> tuple[bool, int, int, int, str]:
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


def memory(variant: Variant, *, board_mb: int | None, old_mb: int | None, storage: str | None) -> Memory:
    """Whether ``variant`` fits beside what the host serves. ``old_mb``: what that needs; 0 where it serves nothing."""
    if board_mb is None:
        return Memory("unknown", unknown="the board's memory")
    if old_mb is None:
        return Memory("unknown", unknown="what the host serves now")
    if variant.requires.memory_mb + old_mb <= board_mb:
        return Memory("fits")
    read_s = variant.size_bytes / 1e6 / READ_MB_S.get(storage or "sd", READ_MB_S["sd"])
    return Memory("outage", outage_s=math.ceil(START_S + read_s))
