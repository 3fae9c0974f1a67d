"""Swap a device's model: load a version beside the one in service, hold it to its golden inputs, switch to it.

Changes come one after the other; what a change could not do, it leaves as it was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hedgerow.server import loading
from hedgerow.server.errors import BadRequest, NotFound, Unusable
from hedgerow.server.library import Indexed
from hedgerow.server.repository import is_folder

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from hedgerow.server.computing import Computing
    from hedgerow.server.loading import Loaded
    from hedgerow.server.models import Served, Slot

_CURRENT = "current"


@dataclass(frozen=True)
class Prepared:
    """A version that stands beside the one in service: seconds it took to load, golden inputs it answered."""

    load_s: float
    golden: int


class Swaps:
    """The versions ``models_dir/<name>/<version>`` of the names in ``slots``.

    ``model`` is the name that a device is to serve. ``changed`` is told which versions came into service, and which
    left it. ``errors``: why a name could not be loaded.
    """

    def __init__(
        self,
        models_dir: Path,
        slots: dict[str, Slot],
        *,
        model: str | None,
        computing: Computing,
        patience: Callable[[], AbstractContextManager[None]],
        changed: Callable[[list[Served], list[Served]], None],
    ) -> None:
        self._models_dir = models_dir
        self._slots = slots
        self._model = model
        self._computing = computing
        self._patience = patience
        self._changed = changed
        self._change = asyncio.Lock()
        self.errors: dict[str, str] = {}

    async def open_current(self) -> bool:
        """Serve what ``models_dir/<model>/current`` names; False where that is nothing, or cannot be (``errors``)."""
        if self._model is None:
            raise RuntimeError("no model was named")
        folder = self._models_dir / self._model / _CURRENT
        if not folder.exists():
            return False
        try:
            loaded = await self._load(self._model, folder.resolve(), check_golden=False)
        except Unusable as error:
            self.errors[self._model] = error.text
            return False
        slot = self._slots[self._model]
        slot.prepare(loaded.model)
        self._switch(slot, loaded.model)
        return True

    async def prepare(self, name: str, version: str) -> Prepared:
        """Load a version beside the one in service and put its golden inputs to it.

        Raises:
            NotFound: it is not on this device.
            Unusable: ``other_model``, ``load_failed`` or ``golden_failed``; the version in service is untouched.
        """
        if name not in self._slots:
            raise Unusable("other_model", f"this server serves {' and '.join(sorted(self._slots))}, not {name}")
        folder = self._models_dir / name / version
        if "/" in version or version in {"", ".", ".."} or not is_folder(folder):
            raise NotFound(f"{name}@{version} is not on this device")
        async with self._change:
            started = time.monotonic()
            loaded = await self._load(name, folder, check_golden=True)
            self._slots[name].prepare(loaded.model)
            return Prepared(round(time.monotonic() - started, 3), loaded.golden)

    async def switch(self, name: str, version: str) -> tuple[Served, Served | None]:
        """Serve the prepared version from now on; requests that run end on the old one.

        Returns the version in service and the one before. Asking again for what is in service changes nothing.

        Raises:
            BadRequest: it was not prepared.
        """
        async with self._change:
            slot = self._slots.get(name)
            if slot is not None and slot.serving is not None and slot.serving.version == version:
                return slot.serving, None
            if slot is None or slot.prepared is None or slot.prepared.version != version:
                raise BadRequest(f"{name}@{version} was not prepared")
            model = slot.prepared
            return model, self._switch(slot, model)

    async def discard(self, name: str) -> None:
        """Forget the version that was prepared."""
        async with self._change:
            if name in self._slots:
                self._slots[name].discard()

    async def restore(self) -> None:
        """Load the version in service again, whose memory a smaller model had; its history goes on."""
        async with self._change:
            slot = None if self._model is None else self._slots.get(self._model)
            before = None if slot is None else slot.serving
            if slot is None or before is None or not before.retired:
                return
            loaded = await self._load(before.name, self._models_dir / before.name / before.version, check_golden=True)
            loaded.model.since, loaded.model.statistics = before.since, before.statistics
            slot.serving = loaded.model

    def index(self) -> list[Indexed]:
        """Every version that is in service, and names that have none."""
        found: list[Indexed] = []
        for name, slot in self._slots.items():
            found += [Indexed(name, model.version, "READY") for model in slot.all]
            if not slot.all:
                found.append(Indexed(name, "", "UNAVAILABLE", self.errors.get(name, "no version is active")))
        return found

    async def _load(self, name: str, folder: Path, *, check_golden: bool) -> Loaded:
        with self._patience():
            return await asyncio.to_thread(
                loading.load, name, folder, computing=self._computing, check_golden=check_golden
            )

    def _switch(self, slot: Slot, model: Served) -> Served | None:
        before = slot.switch()
        self.errors.pop(slot.name, None)
        self._changed([model], [] if before is None else [before])
        return before
