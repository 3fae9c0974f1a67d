"""Serve a repository's models: load, reload and unload them by name, and say what state each is in.

Invariants:

- What is loaded stands beside what is served until all of it is loaded and has answered its golden inputs; then all
  versions of the model change at once. If one cannot be loaded, nothing changes.
- A version whose files have not changed is not loaded again.
- Changes come one after the other.
- With ``residents`` a model is loaded when a request asks for it, and gives way to others or to time (``residency``).
  It keeps its slot, empty: the name is served all the same.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from hedgerow.server import loading, memory
from hedgerow.server.errors import NotFound, Overloaded, Unusable
from hedgerow.server.models import Served, Slot
from hedgerow.server.residency import DoesNotFit, megabytes

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from hedgerow.server.computing import Computing
    from hedgerow.server.loading import Loaded
    from hedgerow.server.repository import Entry, Repository, Version
    from hedgerow.server.residents import Residents

log = logging.getLogger("hedgerow.server")

# However many models are about to be idle, the lock is not taken more often than this.
_SHORTEST_SWEEP_S = 0.5

T = TypeVar("T")


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
        computing: Computing,
        patience: Callable[[], AbstractContextManager[None]],
        changed: Callable[[list[Served], list[Served]], None],
        unload_s: float,
        residents: Residents | None = None,
    ) -> None:
        self._repository = repository
        self._slots = slots
        self._computing = computing
        self._patience = patience
        self._changed = changed
        self._unload_s = unload_s
        self._residents = residents
        self._bringing: dict[str, asyncio.Task[None]] = {}
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
            except (Unusable, Overloaded, DoesNotFit) as error:
                self._reasons[name] = error.text
                raise
            finally:
                del self._busy[name]

    async def load_all(self) -> None:
        """Serve every model of the repository; with ``residents``, load those that are pinned and no others.

        Raises:
            MachineError: there is none.
            ServingError: one cannot be loaded, or the pinned ones do not fit; names it.
        """
        names = self._repository.required()
        if self._residents is not None:
            for name in names:
                self._slots.setdefault(name, Slot(name))
                self._reasons.setdefault(name, "not loaded; a request loads it")
            names = sorted(self._residents.rules.pins)
        for name in names:
            await self.load(name)

    async def bring(self, name: str) -> None:
        """Have ``name`` loaded if it gave way. A caller who leaves does not end a load that others wait for.

        Raises:
            DoesNotFit, Overloaded, Unusable.
        """
        if self._residents is None or name not in self._slots:
            return
        self._residents.touch(name)
        while (slot := self._slots.get(name)) is not None and slot.serving is None:
            task = self._bringing.get(name)
            if task is None:
                task = self._bringing[name] = asyncio.create_task(self._bring(name))
                task.add_done_callback(functools.partial(self._brought, name))
            await asyncio.shield(task)

    def touch(self, name: str) -> None:
        """A request on ``name`` has ended."""
        if self._residents is not None:
            self._residents.touch(name)

    async def keep(self) -> None:
        """Unload what nobody asks for, for as long as the server runs."""
        while self._residents is not None:
            wait_s = await self.sweep()
            if wait_s is None:
                return
            await asyncio.sleep(max(wait_s, _SHORTEST_SWEEP_S))

    async def sweep(self) -> float | None:
        """Unload what nobody has asked for; in how many seconds to look again, None: never."""
        if self._residents is None:
            return None
        async with self._change:
            names, wait_s = self._residents.idle()
            for name in names:
                await self._give_up(name, "idle", f"nobody asked for it for {self._residents.rules.keep_alive_s:g} s")
        return wait_s

    async def _bring(self, name: str) -> None:
        slot = self._slots.get(name)
        if slot is not None and slot.serving is None:
            await self.load(name)

    def _brought(self, name: str, task: asyncio.Task[None]) -> None:
        self._bringing.pop(name, None)
        if not task.cancelled():
            task.exception()  # those who wait have it; where all have left, nobody has to

    async def _give_up(self, name: str, why: str, reason: str) -> None:
        """Unload ``name`` and keep its slot; under the lock."""
        if self._residents is None:
            return
        gone = self._slots[name].empty()
        self._reasons[name] = f"{reason}; a request loads it"
        self._busy[name] = "UNLOADING"
        try:
            self._changed([], gone)
            self._residents.went(name, why)
            for model in gone:
                await asyncio.to_thread(model.wait_closed, self._unload_s)
        finally:
            del self._busy[name]
        log.info("%s is unloaded: %s", name, reason)

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
            if self._residents is not None:
                self._slots[name] = Slot(name)
                if slot.all:
                    self._residents.went(name, "asked")
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
        await self._make_room(name, entry)
        models: list[Served] = []
        fresh: list[Served] = []
        try:
            for version in entry.wanted():
                fingerprint = await asyncio.to_thread(_read, version.folder, version.fingerprint)
                kept = next((each for each in slot.all if each.fingerprint == fingerprint), None)
                if kept is not None and kept.config == entry.config:
                    models.append(kept)
                    continue
                model = await self._open(entry, version, fingerprint)
                model.fingerprint = fingerprint
                fresh.append(model)
                models.append(model)
            await self._fit(name, models)
        except BaseException:
            for model in fresh:
                model.retire()
                if self._residents is not None:  # or its memory would be missing from what the next one takes
                    await asyncio.to_thread(model.wait_closed, self._unload_s)
            raise
        gone = slot.serve(models)
        self._slots[name] = slot
        self._reasons.pop(name, None)
        self._changed(fresh, gone)
        if self._residents is not None:
            self._residents.came(name)
        log.info("%s serves %s", name, ", ".join(model.version for model in models))

    async def _make_room(self, name: str, entry: Entry) -> None:
        """Unload what has to go before ``name`` is loaded: by what it was measured to take, else by its files' size.

        The latter is the least that it can be: weights are as large in memory as in their file, or larger.
        """
        if self._residents is None:
            return
        needed = 0
        for version in entry.wanted():
            fingerprint = await asyncio.to_thread(_read, version.folder, version.fingerprint)
            known = self._residents.known(fingerprint)
            needed += await asyncio.to_thread(version.size) if known is None else known
        await self._give_way(name, needed)

    async def _fit(self, name: str, models: list[Served]) -> None:
        """Hold what was loaded to the budget by what it was measured to take."""
        if self._residents is not None:
            sizes = [self._residents.known(model.fingerprint) or 0 for model in models]
            await self._give_way(name, sum(sizes))

    async def _give_way(self, name: str, needed: int) -> None:
        if self._residents is not None:
            for other in self._residents.give_way(name, needed):
                await self._give_up(other, "room", f"it made room for {name}")

    async def _open(self, entry: Entry, version: Version, fingerprint: tuple[object, ...]) -> Served:
        load = functools.partial(
            loading.load,
            entry.name,
            version.folder,
            computing=self._computing,
            check_golden=True,
            version=version.name,
            config=entry.config,
            home=entry.folder,
        )
        with self._patience():
            try:
                if self._residents is None:
                    loaded = await asyncio.to_thread(load)
                else:
                    size, loaded = await asyncio.to_thread(_measured, version, load)
                    self._residents.measured(fingerprint, size)
                    log.info("%s@%s takes %s", entry.name, loaded.model.version, megabytes(size))
            except Unusable as error:
                text = f"{entry.name} cannot be served: {error.text}"
                raise Unusable(error.code, text, where=version.folder) from error
        return loaded.model


def _measured(version: Version, load: Callable[[], Loaded]) -> tuple[int, Loaded]:
    """The bytes that ``version`` takes, and what ``load`` returned. Blocks.

    Never less than its files: less was measured when something else, another model for one, was let go of meanwhile.
    """
    least = _read(version.folder, version.size)
    loaded, size = memory.measured(version.folder, load)
    # What a process of its own took, it measured itself.
    elsewhere: int = getattr(loaded.model.backend, "memory", 0)
    return max(least, size + elsewhere), loaded


def _read(folder: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except OSError as error:  # somebody is writing there
        raise Unusable("load_failed", f"{folder} cannot be read: {error.strerror}") from error
