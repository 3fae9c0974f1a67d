"""What adapters and the data plane say to each other about tensor models; nothing here knows a transport.

An adapter makes an ``InferRequest`` of what it was sent, and its own form of the ``InferResponse``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from hedgerow.server.backends import Arrays, TensorSpec


class Wanted(Struct, frozen=True):
    """An output that is asked for: its values, or where ``classes`` is not 0 its so many best classes."""

    name: str
    classes: int = 0


class InferRequest(Struct, frozen=True):
    """``version`` None is the one in service; no ``outputs`` is all of them.

    ``priority`` 1 is the most urgent, 0 the model's default. ``timeout_s`` is how long it may wait for its turn.
    """

    model: str
    inputs: Arrays
    version: str | None = None
    outputs: tuple[Wanted, ...] = ()
    id: str | None = None
    priority: int = 0
    timeout_s: float | None = None


class InferResponse(Struct, frozen=True):
    """The answer of ``model`` in ``version``; ``id`` is the request's."""

    model: str
    version: str
    outputs: Arrays
    id: str | None = None


@dataclass(frozen=True)
class ModelMetadata:
    """What a model takes and gives. ``versions`` are those in service."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
