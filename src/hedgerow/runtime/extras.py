"""What a fleet may add to its devices' runtime: extras of the package whose locks lie in ``requirements``.

An inventory asks for them in ``inference_runtime_extras``. Plans and ``hedgerow runtime build`` read it as it stands
there, the role as Ansible renders it, so it is literal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from hedgerow.errors import UsageError

VARIABLE: Final = "inference_runtime_extras"


class Extra(NamedTuple):
    """``module``: of ours, cannot be imported without its packages; ``size_bytes``: about what its wheels have."""

    module: str
    size_bytes: int


EXTRAS: Final = {
    "traces": Extra("hedgerow.server.telemetry.otlp", 1_200_000),
    "vision": Extra("hedgerow.vision.sources", 33_000_000),
    "litert": Extra("hedgerow.server.backends.litert", 20_000_000),
}


def chosen(asked: Any, *, where: str) -> tuple[str, ...]:
    """The extras that ``asked`` names, each once and in one order, so that one wish has one runtime; None is none.

    Raises:
        UsageError: it is no list, or an extra that devices cannot have.
    """
    there = f"there are: {', '.join(EXTRAS)}"
    if asked is None:
        return ()
    if isinstance(asked, str | Mapping) or not isinstance(asked, Iterable):
        raise UsageError(f"{asked!r} is no list of extras", where=where, next_step=f"write a literal list; {there}")
    names = list(asked)
    for name in names:
        if not isinstance(name, str) or name not in EXTRAS:
            raise UsageError(f"{name!r} is no extra that a device's runtime can have", where=where, next_step=there)
    return tuple(name for name in EXTRAS if name in names)


def of_host(host: str, variables: Mapping[str, Any]) -> tuple[str, ...]:
    """What the inventory asks for on a host. Raises as ``chosen``."""
    return chosen(variables.get(VARIABLE), where=f"{VARIABLE} of {host}")


def smoke_imports(extras: Iterable[str]) -> list[str]:
    """Modules that must import in a runtime with them."""
    return [EXTRAS[name].module for name in extras]


def size_bytes(extras: Iterable[str]) -> int:
    """About what they add to a runtime's archive."""
    return sum(EXTRAS[name].size_bytes for name in extras)
