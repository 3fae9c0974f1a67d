"""With what models are computed on this machine: threads, ONNX Runtime's execution providers, and in which process."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct, field

if TYPE_CHECKING:
    from hedgerow.server.isolation.nursery import Nursery

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_UNIFIED = "0::"


class Provider(Struct, frozen=True, forbid_unknown_fields=True):
    """One execution provider by onnxruntime's own name, and its options as onnxruntime writes them."""

    name: Annotated[str, Meta(pattern="^[A-Za-z0-9]+ExecutionProvider$")]
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Computing:
    """``threads`` of one model, None for ``default_threads()``; ``providers`` best first, with the CPU behind them.

    ``nursery``: where each model's own process comes from; None: models are computed in the server's.
    """

    threads: int | None = None
    providers: tuple[Provider, ...] = ()
    nursery: Nursery | None = None


def default_threads() -> int:
    """Cores for one model: all where there are one or two, else all but one, for the network and the system.

    The cores are those of the process's affinity (``AllowedCPUs=``). Where its control group may take only so much of
    their time (``CPUQuota=``), the rest is for others already, and there are no more threads than that.
    """
    cores = len(os.sched_getaffinity(0))
    threads = max(cores - 1, min(cores, 2))
    quota = cpu_quota()
    return threads if quota is None else min(threads, max(1, math.floor(quota)))


def cpu_quota(groups: Path = _CGROUPS, own: Path = _OWN) -> float | None:
    """Cores' worth of time that this process may have: the least of its control group and those above it.

    None where nothing limits it, or the kernel has no unified hierarchy. Source: the kernel's
    Documentation/admin-guide/cgroup-v2.rst, ``cpu.max``: "$MAX $PERIOD" in microseconds, or "max $PERIOD".
    """
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    path = next((line.removeprefix(_UNIFIED) for line in lines if line.startswith(_UNIFIED)), None)
    if path is None:
        return None
    found: list[float] = []
    group = PurePosixPath(path).relative_to("/")
    for each in (group, *group.parents):
        try:
            most, period = (groups / each / "cpu.max").read_text(encoding="ascii").split()
        except (OSError, ValueError):  # the root has none
            continue
        if most != "max":
            found.append(int(most) / int(period))
    return min(found, default=None)
