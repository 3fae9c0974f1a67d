"""All behaviour of the server, free of any transport: protocol adapters call this and nothing else.

Invariants:

- A name is served from one slot; what a request began on stays loaded until it ends (``models``).
- Work that blocks runs on threads: tensors on a small pool, text on the scheduler's one.
- Every finished request is counted once, whichever protocol it came by.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING

from hedgerow.device.health import Serving
from hedgerow.server import checking, classification, describing
from hedgerow.server.answering import Texts
from hedgerow.server.batching import NONE, Batching
from hedgerow.server.clients import Clients
from hedgerow.server.computing import Computing
from hedgerow.server.config import Limits
from hedgerow.server.degrading import Degradation
from hedgerow.server.drain import Drain
from hedgerow.server.errors import BadRequest, Draining, NotFound, Starting
from hedgerow.server.inference import InferRequest, InferResponse, ModelMetadata
from hedgerow.server.library import Indexed, Library
from hedgerow.server.metrics import Metrics
from hedgerow.server.models import Held, Served, Slot
from hedgerow.server.pieces import Piece
from hedgerow.server.recording import Counted, Recorder
from hedgerow.server.repository import Repository
from hedgerow.server.residents import Residents
from hedgerow.server.scheduler import Scheduler
from hedgerow.server.statistics import Window
from hedgerow.server.swapping import Prepared, Swaps
from hedgerow.server.systemd import Patience
from hedgerow.server.workers import Workers

if TYPE_CHECKING:
    from hedgerow.server.backends import TextRequest
    from hedgerow.server.degradation import Policy
    from hedgerow.server.fallback.service import Fallback
    from hedgerow.server.modelconfig import ModelConfig
    from hedgerow.server.residency import Rules

# A model's own threads do the work of one call; the second keeps them busy between two.
_INFER_THREADS = 2
# A model whose last request will not end keeps the process no longer than this.
_CLOSE_S = 5.0
# When a caller may try again: most models that a Pi serves are loaded in a second or two.
_STARTING_S = 2


class DataPlane:
    """The models of one server: on a device the one name ``model``, on a workstation those of a whole repository.

    ``model`` is served from ``models_dir/<model>/current``, and activation alone changes that; None serves
    ``models_dir`` as a repository. ``batching`` is for models that say nothing of it themselves. ``residency`` is for a
    repository: models are loaded when a request asks for them, and give way by these rules (``on_demand``).
    """

    def __init__(
        self,
        models_dir: Path,
        *,
        model: str | None = None,
        limits: Limits | None = None,
        computing: Computing | None = None,
        batching: Batching = NONE,
        degradation: Policy | None = None,
        residency: Rules | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._batching = batching
        computing = computing or Computing()
        self._slots: dict[str, Slot] = {} if model is None else {model: Slot(model)}
        self._opened = model is not None
        self.clients = Clients(self._limits.client)
        self._scheduler = Scheduler(active=self._limits.generations, queue=self._limits.queue)
        self._texts = Texts(self, self._scheduler, self._limits)
        self._workers = Workers(threads=_INFER_THREADS, queue=self._limits.queue, on_batch=self._count_batch)
        self._patience = Patience()
        self.metrics = Metrics(lambda: self.queue_depth)
        # Looking up a metric by its labels takes longer than counting.
        self._batch_size = functools.cache(self.metrics.batch_size.labels)
        if computing.nursery is not None:
            computing.nursery.ended = lambda name, how: self.metrics.model_process_ends.labels(name, how).inc()
        self._library: Library | None = None
        self._keeping: asyncio.Task[None] | None = None
        self.on_demand = model is None and residency is not None
        if model is None:
            self._library = Library(
                Repository(models_dir),
                self._slots,
                computing=computing,
                patience=self._patience.loading,
                changed=self._changed,
                unload_s=self._limits.drain_s,
                residents=None if residency is None else Residents(residency, self._slots, self.metrics),
            )
        self._swaps = Swaps(
            models_dir,
            self._slots,
            model=model,
            computing=computing,
            patience=self._patience.loading,
            changed=self._changed,
        )
        # Set once, when the process stops; ``drain`` is an operator's and ends.
        self.stopping = False
        self.drain = Drain()
        self.window = Window()
        self._recorder = Recorder(self.metrics, self.window)
        # Set before requests come, where the configuration lets some leave; closed with the rest.
        self.fallback: Fallback | None = None
        self.degradation = Degradation(
            None if model is None else degradation,
            models_dir=models_dir,
            computing=computing,
            serving=lambda: None if model is None else self.serving(model),
            restore=self._swaps.restore,
            patience=self._patience.loading,
            metrics=self.metrics,
        )

    # ── what is served ──────────────────────────────────────────────────────

    @property
    def names(self) -> list[str]:
        """Every name that is meant to be served here."""
        return sorted(self._slots)

    @property
    def draining(self) -> bool:
        """Whether no new requests are taken."""
        return self.stopping or self.drain.until is not None

    @property
    def recorder(self) -> Recorder:
        """What counts requests, and tells others of them."""
        return self._recorder

    @property
    def inflight(self) -> int:
        """Requests being worked on."""
        return self._recorder.inflight

    @property
    def queue_depth(self) -> int:
        """Requests that wait for their turn."""
        return self._scheduler.queue_depth + self._workers.queue_depth

    def ready(self, name: str | None = None) -> bool:
        """Whether requests are taken: for ``name``, else for every name that is meant to be served."""
        if self.draining:
            return False
        if name is not None:
            slot = self._slots.get(name)
            return slot is not None and (slot.serving is not None or self.on_demand)
        return self._opened and all(slot.serving is not None or self.on_demand for slot in self._slots.values())

    def serving(self, name: str) -> Served | None:
        """The version in service, None where there is none: for whoever tells how things are."""
        slot = self._slots.get(name)
        return None if slot is None else slot.serving

    def served(self, name: str, version: str | None = None) -> Served:
        """The model in service, for whoever has a question for it.

        Raises:
            Starting: nothing is in service yet, as while a server that was restarted loads its model.
            NotFound: no such name, or another version.
        """
        slot = self._slots.get(name)
        if slot is not None and slot.serving is None and self.on_demand:
            raise NotFound(f"model '{name}' is not loaded; a request loads it")
        if slot is None or slot.serving is None:
            known = ", ".join(each.name for each in self._slots.values() if each.serving is not None)
            if not known and self._starting:
                # The caller is not wrong, and another host may answer: a gateway takes 503 for that, and 404 for final.
                raise Starting("no model is in service here yet", retry_after_s=_STARTING_S)
            raise NotFound(f"model '{name}' is not served here; served: {known or 'none'}")
        model = slot.find(version)
        if model is None:
            known = " and ".join(each.version for each in slot.all)
            raise NotFound(f"model '{name}' is served in version {known}, not {version}")
        return model

    @property
    def _starting(self) -> bool:
        # A device's server is to serve one name and waits for it; a repository that has been read is all there is.
        return self._library is None or not self._opened

    def prepared(self, name: str) -> Served | None:
        """The version beside the one in service."""
        slot = self._slots.get(name)
        return None if slot is None else slot.prepared

    def error(self, name: str) -> str | None:
        """Why ``name`` could not be loaded, if so."""
        return self._swaps.errors.get(name)

    def serving_figures(self, *, restarts: int | None) -> Serving:
        """The health report's figures of the last minutes."""
        self._recorder.settle()
        return self.window.serving(time.monotonic(), queue=self.queue_depth, restarts=restarts)

    # ── loading and swapping ────────────────────────────────────────────────

    async def open_current(self) -> bool:
        """Serve what ``models_dir/<model>/current`` names; False where that is nothing, or cannot be (``error``)."""
        return await self._swaps.open_current()

    async def open_repository(self) -> None:
        """Serve every model of the repository.

        Raises:
            MachineError: there is none.
            Unusable: one cannot be loaded; names it.
        """
        library = self._whole_library()
        await library.load_all()
        self._opened = True
        if self.on_demand:
            self._keeping = asyncio.create_task(library.keep())

    async def bring(self, name: str) -> None:
        """Have a model of the repository loaded that gave way; nothing elsewhere.

        Raises:
            DoesNotFit: it is larger than what the budget leaves.
            Overloaded: it has to wait for others.
            Unusable: it cannot be loaded.
        """
        if self._library is not None and not self.draining:
            await self._library.bring(name)

    async def load(self, name: str) -> None:
        """Serve a model as the repository has it now.

        Raises:
            BadRequest: this server is a device's.
            NotFound, Unusable: nothing changes.
        """
        await self._whole_library().load(name)

    async def unload(self, name: str) -> None:
        """Serve a model no longer; returns when its memory is back.

        Raises:
            BadRequest: this server is a device's.
            NotFound: it is not served.
            Overloaded: requests still run on it.
        """
        await self._whole_library().unload(name)

    async def index(self) -> list[Indexed]:
        """Every version that is here, and its state."""
        if self._library is not None:
            return await asyncio.to_thread(self._library.index)
        return self._swaps.index()

    def _whole_library(self) -> Library:
        if self._library is None:
            raise BadRequest(
                "this server serves what hedgerow-device activates; models are not loaded or unloaded here"
            )
        return self._library

    def _changed(self, came: list[Served], gone: list[Served]) -> None:
        for model in gone:
            with contextlib.suppress(KeyError):  # two folders of one version
                self.metrics.model_info.remove(model.name, model.version, model.sha256 or "")
        for model in came:
            self.metrics.model_info.labels(model.name, model.version, model.sha256 or "").set(1)

    async def prepare(self, name: str, version: str) -> Prepared:
        """Load a version beside the one in service and put its golden inputs to it.

        Raises:
            NotFound: it is not on this device.
            Unusable: ``other_model``, ``load_failed`` or ``golden_failed``; the version in service is untouched.
        """
        return await self._swaps.prepare(name, version)

    async def switch(self, name: str, version: str) -> tuple[Served, Served | None]:
        """Serve the prepared version from now on; requests that run end on the old one.

        Returns the version in service and the one before. Asking again for what is in service changes nothing.

        Raises:
            BadRequest: it was not prepared.
        """
        return await self._swaps.switch(name, version)

    async def discard(self, name: str) -> None:
        """Forget the version that was prepared."""
        await self._swaps.discard(name)

    # ── requests ────────────────────────────────────────────────────────────

    def metadata(self, name: str, version: str | None = None) -> ModelMetadata:
        """What a model takes and gives; a text model has no tensors.

        Raises:
            NotFound.
        """
        served = self.served(name, version)
        versions = tuple(model.version for model in self._slots[name].all)
        return describing.metadata(name, served, versions)

    def config(self, name: str, version: str | None = None) -> ModelConfig:
        """A model's configuration.

        Raises:
            NotFound.
        """
        return describing.config(self.metadata(name, version), self.served(name, version))

    def statistics(self, name: str | None = None, version: str | None = None) -> list[Served]:
        """The versions in service whose ``statistics`` are asked for: of one name, or all.

        Raises:
            NotFound.
        """
        self._recorder.settle()
        if name is None:
            return [model for slot in self._slots.values() for model in slot.all]
        served = self.served(name, version)
        return [served] if version is not None else self._slots[name].all

    async def infer(self, request: InferRequest, *, protocol: str) -> InferResponse:
        """Run a tensor model.

        Raises:
            NotFound, BadRequest, Overloaded, RateLimited.
        """
        with (
            self._request(request.model, protocol) as record,
            self.clients.admit(record.caller.client),
            await self.hold(request.model, request.version) as model,
        ):
            record.served_by(model)
            if not hasattr(model.backend, "infer"):
                raise BadRequest(f"model '{request.model}' takes text: POST /v2/models/{request.model}/generate")
            outputs = [each.name for each in request.outputs]
            checking.check(model, request.inputs, outputs)
            checking.check_batch(model, request.inputs)
            results = await self._workers.infer(
                model,
                request.inputs,
                outputs,
                priority=request.priority,
                timeout_s=self._limits.timeout_s(request.timeout_s),
                batching=model.batching or self._batching,
                progress=record.progress,
            )
            return InferResponse(
                model.name, model.version, classification.applied(results, request.outputs, model.labels), request.id
            )

    async def generate(
        self, name: str, request: TextRequest, *, protocol: str, version: str | None = None
    ) -> AsyncGenerator[list[Piece], None]:
        """Yield an answer's pieces, all that are ready at once; leaving early cancels it.

        Raises:
            NotFound, BadRequest, Overloaded, RateLimited: before the first piece.
        """
        with self._request(name, protocol) as record, self.clients.admit(record.caller.client):
            pieces = self._texts.answer(name, request, record, version)
            record.asked = request
            async with contextlib.aclosing(pieces):
                async for batch in pieces:
                    record.hears(batch)
                    yield batch

    async def hold(self, name: str, version: str | None, adapter: str | None = None) -> Held:
        """The model that a request for ``name`` runs on; it stays loaded within a ``with`` block.

        Raises:
            Draining: no new requests are taken.
            NotFound, DoesNotFit, Overloaded, Unusable.
        """
        if self._library is not None:
            await self.bring(name)
        if self.draining:
            raise Draining("the server is being drained", retry_after_s=5)
        model = self.degradation.answering(self.served(name, version), exact=version is not None, adapter=adapter)
        return _Hold(model, name, self._library)

    def _count_batch(self, model: Served, rows: int) -> None:
        self._batch_size(model.name).observe(rows)

    def _request(self, name: str, protocol: str) -> Counted:
        # A name that is not served would be an unbounded label.
        return self._recorder.request(name if name in self._slots else "unknown", protocol)

    async def close(self) -> None:
        """Let every model go; what still runs ends with an error."""
        if self.fallback is not None:
            await self.fallback.close()
        if self._keeping is not None:
            self._keeping.cancel()
        await asyncio.to_thread(self._workers.close)
        await asyncio.to_thread(self._scheduler.close)
        smaller = self.degradation.close()
        loaded = [model for slot in self._slots.values() for model in slot.empty()]
        for model in [*loaded, *([] if smaller is None else [smaller])]:
            await asyncio.to_thread(model.wait_closed, _CLOSE_S)


class _Hold(Held):
    """A model that a request for ``name`` runs on; the library hears of its end."""

    __slots__ = ("_library", "_name")

    def __init__(self, model: Served, name: str, library: Library | None) -> None:
        super().__init__(model)
        self._name = name
        self._library = library

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self._library is not None:
            self._library.touch(self._name)
