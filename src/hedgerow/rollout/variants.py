"""The variants of a version as a plan has them, and whether old and new fit into a host's memory together. Pure.

Which one a host gets is ``hedgerow.registry.fitting``'s rule, because the device follows it, too.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from hedgerow.registry.fitting import Misfit, Traits, choose
from hedgerow.registry.manifest import Requires

__all__ = ["ONLY", "READ_MB_S", "START_S", "Memory", "Misfit", "Traits", "Variant", "choose", "memory"]

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


class Memory(msgspec.Struct, frozen=True):
    """Whether old and new stand side by side. ``outage_s``: how long nothing serves; ``unknown``: which size is."""

    state: Literal["fits", "outage", "unknown"]
    outage_s: int | None = None
    unknown: str | None = None


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
