"""A model that is loaded, and the slot it is served from.

Invariants of a swap:

- The new model is loaded and proven beside the old one; until ``Slot.switch`` nothing changes for callers.
- A request holds the model it began with (``Served.hold``). A model is closed when the last holder lets go after it
  was retired, never before.
- Closing gives hundreds of megabytes back, so it runs on a thread of its own: the last holder is often the event loop.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from hedgerow.server import memory
from hedgerow.server.modelstatistics import ModelStatistics
from hedgerow.server.pace import Pace

if TYPE_CHECKING:
    from hedgerow.server.backends import Backend, TensorSpec
    from hedgerow.server.batching import Batching
    from hedgerow.server.modelconfig import ModelConfig


@dataclass(eq=False)
class Served:
    """One loaded version. ``sha256`` is the bundle's identity, None for a plain folder without a manifest.

    ``batching`` is what the model's own configuration says of it, None where it says nothing. ``labels``: the names of
    an output's classes. ``fingerprint`` is that of the files it was loaded from.
    ``degrade_above_c`` is the manifest's, ``golden_tokens`` what its longest golden question may take.
    """

    name: str
    version: str
    sha256: str | None
    backend: Backend
    since: datetime
    batching: Batching | None = None
    config: ModelConfig | None = None
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fingerprint: tuple[object, ...] = ()
    degrade_above_c: float | None = None
    golden_tokens: int = 0
    statistics: ModelStatistics = field(default_factory=ModelStatistics, init=False)
    pace: Pace = field(default_factory=Pace, init=False)
    _holders: int = field(default=0, init=False)
    _retired: bool = field(default=False, init=False)
    _closing: bool = field(default=False, init=False)
    _closed: threading.Event = field(default_factory=threading.Event, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def hold(self) -> Held:
        """Keep the model loaded while a request runs on it."""
        return Held(self)

    def take(self) -> None:
        """Keep it loaded until ``let_go``."""
        with self._lock:
            self._holders += 1

    def let_go(self) -> None:
        """The counterpart of ``take``."""
        with self._lock:
            self._holders -= 1
        if self._retired:
            self._close_if_unused()

    def retire(self) -> None:
        """No new requests will come; close once the running ones have ended."""
        with self._lock:
            self._retired = True
        self._close_if_unused()

    @functools.cached_property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What a tensor model takes, by name; nothing for a text model."""
        return {spec.name: spec for spec in getattr(self.backend, "inputs", ())}

    @functools.cached_property
    def outputs(self) -> tuple[str, ...]:
        """The names of what a tensor model gives."""
        return tuple(spec.name for spec in getattr(self.backend, "outputs", ()))

    @property
    def retired(self) -> bool:
        """Whether its memory is given back, or will be as soon as its last request has ended."""
        return self._retired

    @property
    def held(self) -> bool:
        """Whether requests run on it."""
        return self._holders > 0

    def wait_closed(self, timeout_s: float | None = None) -> bool:
        """Block until its memory is back; False if that takes longer than ``timeout_s``."""
        return self._closed.wait(timeout_s)

    def _close_if_unused(self) -> None:
        with self._lock:
            if self._closing or not self._retired or self._holders:
                return
            self._closing = True
        threading.Thread(target=self._close, name=f"close-{self.name}").start()

    def _close(self) -> None:
        try:
            self.backend.close()
            # The allocator keeps what other threads allocated; swap by swap that would be a model's size and more.
            memory.trim()
        finally:
            self._closed.set()


class Held:
    """A model that stays loaded within a ``with`` block."""

    __slots__ = ("_model",)

    def __init__(self, model: Served) -> None:
        self._model = model

    def __enter__(self) -> Served:
        self._model.take()
        return self._model

    def __exit__(self, *_: object) -> None:
        self._model.let_go()


@dataclass(eq=False)
class Slot:
    """What is served under one name: the version in service, and one prepared beside it.

    ``others`` are served as well, to requests that name them.
    """

    name: str
    serving: Served | None = None
    prepared: Served | None = None
    others: dict[str, Served] = field(default_factory=dict)

    @property
    def all(self) -> list[Served]:
        """Every version that is served, the one for requests that name none at the end."""
        return [*self.others.values(), *([] if self.serving is None else [self.serving])]

    def find(self, version: str | None) -> Served | None:
        """The version to serve a request with."""
        if version is None or (self.serving is not None and self.serving.version == version):
            return self.serving
        return self.others.get(version)

    def serve(self, models: Sequence[Served]) -> list[Served]:
        """Serve these from now on, the last to requests that name no version; returns those that were retired."""
        before = self.all
        *others, self.serving = models
        self.others = {model.version: model for model in others}
        gone = [model for model in before if model not in models]
        for model in gone:
            model.retire()
        return gone

    def prepare(self, model: Served) -> None:
        """Put ``model`` beside the one in service; an earlier prepared one gives way."""
        if self.prepared is not None and self.prepared is not model:
            self.prepared.retire()
        self.prepared = model

    def switch(self) -> Served | None:
        """Serve the prepared version from now on; returns the one that was retired."""
        if self.prepared is None:
            raise LookupError(self.name)
        before, self.serving, self.prepared = self.serving, self.prepared, None
        if before is not None:
            before.retire()
        return before

    def discard(self) -> None:
        """Forget the prepared version."""
        if self.prepared is not None:
            self.prepared.retire()
            self.prepared = None

    def empty(self) -> list[Served]:
        """Retire whatever is loaded, and return it."""
        models = [*self.all, *([] if self.prepared is None else [self.prepared])]
        self.serving = self.prepared = None
        self.others = {}
        for model in models:
            model.retire()
        return models
