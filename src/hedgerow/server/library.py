"""Serve a repository's models: load, reload and unload them by name, and say what state each is in.

Invariants:

- What is loaded stands beside what is served until all of it is loaded and has answered its golden inputs; then all
  versions of the model change at once. If one cannot be loaded, nothing changes.
- A version whose files have not changed is not loaded again.
- Changes come one after the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hedgerow.server import loading
from hedgerow.server.errors import NotFound, Overloaded, Unusable
from hedgerow.server.models import Served, Slot

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from hedgerow.server.repository import Entry, Repository, Version

log = logging.getLogger("hedgerow.server")


@dataclass(frozen=True)
class Indexed:
    """A version of a model in the repository. ``state``: READY, LOADING, UNLOADING or UNAVAILABLE; ``reason`` why."""

    name: str
    version: str
    state: str
    reason: str = ""


class Library:
    """The models of ``repository`` in ``slots``. ``changed`` is told which came into service, and which left it."""

    def __init__(
        self,
        repository: Repository,
        slots: dict[str, Slot],
        *,
        threads: int | None,
        patience: Callable[[], AbstractContextManager[None]],
        changed: Callable[[list[Served], list[Served]], None],
        unload_s: float,
    ) -> None:
        self._repository = repository
        self._slots = slots
        self._threads = threads
        self._patience = patience
        self._changed = changed
        self._unload_s = unload_s
        self._change = asyncio.Lock()
        self._busy: dict[str, str] = {}
        self._reasons: dict[str, str] = {}

    async def load(self, name: str) -> None:
        """Serve ``name`` as the repository has it now.

        Raises:
            NotFound: it is not there.
            Unusable: it cannot be loaded; what was served is untouched.
        """
        async with self._change:
            self._busy[name] = "LOADING"
            try:
                await self._load(name)
            except Unusable as error:
                self._reasons[name] = error.text
                raise
            finally:
                del self._busy[name]

    async def load_all(self) -> None:
        """Serve every model of the repository.

        Raises:
            MachineError: there is none.
            Unusable: one cannot be loaded; names it.
        """
        for name in self._repository.required():
            await self.load(name)

    async def unload(self, name: str) -> None:
        """Serve ``name`` no longer; returns when its memory is back.

        Raises:
            NotFound: it is not served.
            Overloaded: requests still run on it; it goes when they end.
        """
        async with self._change:
            slot = self._slots.pop(name, None)
            if slot is None:
                raise NotFound(f"model '{name}' is not served here")
            self._reasons[name] = "unloaded"
            self._busy[name] = "UNLOADING"
            try:
                gone = slot.empty()
                self._changed([], gone)
                closed = [await asyncio.to_thread(model.wait_closed, self._unload_s) for model in gone]
            finally:
                del self._busy[name]
        if not all(closed):
            raise Overloaded(f"model '{name}' takes no requests any more, but some still run on it")

    def index(self) -> list[Indexed]:
        """Every version in the repository or in service. Blocks: it reads the folder."""
        found: list[Indexed] = []
        for name in sorted({*self._repository.names(), *self._slots}):
            slot = self._slots.get(name)
            served = {} if slot is None else {model.version for model in slot.all}
            versions = {*self._versions(name), *served}
            found += [self._indexed(name, version, ready=version in served) for version in sorted(versions)]
        return found

    def _versions(self, name: str) -> list[str]:
        try:
            return [version.name for version in self._repository.entry(name).versions]
        except (NotFound, Unusable) as error:
            self._reasons[name] = error.text
            return [""]

    def _indexed(self, name: str, version: str, *, ready: bool) -> Indexed:
        state = "READY" if ready else self._busy.get(name, "UNAVAILABLE")
        reason = "" if state in {"READY", "LOADING"} else self._reasons.get(name, "not of the version policy")
        return Indexed(name, version, state, reason)

    async def _load(self, name: str) -> None:
        entry = await asyncio.to_thread(self._repository.entry, name)
        slot = self._slots.get(name) or Slot(name)
        models: list[Served] = []
        fresh: list[Served] = []
        try:
            for version in entry.wanted():
                fingerprint = await asyncio.to_thread(_fingerprint, version)
                kept = next((each for each in slot.all if each.fingerprint == fingerprint), None)
                if kept is not None and kept.config == entry.config:
                    models.append(kept)
                    continue
                model = await self._open(entry, version)
                model.fingerprint = fingerprint
                fresh.append(model)
                models.append(model)
        except BaseException:
            for model in fresh:
                model.retire()
            raise
        gone = slot.serve(models)
        self._slots[name] = slot
        self._reasons.pop(name, None)
        self._changed(fresh, gone)
        log.info("%s serves %s", name, ", ".join(model.version for model in models))

    async def _open(self, entry: Entry, version: Version) -> Served:
        with self._patience():
            try:
                loaded = await asyncio.to_thread(
                    loading.load,
                    entry.name,
                    version.folder,
                    threads=self._threads,
                    check_golden=True,
                    version=version.name,
                    config=entry.config,
                    home=entry.folder,
                )
            except Unusable as error:
                text = f"{entry.name} cannot be served: {error.text}"
                raise Unusable(error.code, text, where=version.folder) from error
        return loaded.model


def _fingerprint(version: Version) -> tuple[object, ...]:
    try:
        return version.fingerprint()
    except OSError as error:  # somebody is writing there
        raise Unusable("load_failed", f"{version.folder} cannot be read: {error.strerror}") from error
