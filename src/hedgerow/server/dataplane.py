"""All behaviour of the server, free of any transport: protocol adapters call this and nothing else.

Invariants:

- A name is served from one slot; what a request began on stays loaded until it ends (``models``).
- Work that blocks runs on threads: tensors on a small pool, text on the scheduler's one.
- Every finished request is counted once, whichever protocol it came by.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from hedgerow.device.health import Serving
from hedgerow.server import classification, loading, modelconfig, tensors
from hedgerow.server.batching import NONE, Batching
from hedgerow.server.config import Limits
from hedgerow.server.degrading import Degradation
from hedgerow.server.drain import Drain
from hedgerow.server.errors import BadRequest, Draining, NotFound, Starting, Unusable
from hedgerow.server.inference import InferRequest, InferResponse, ModelMetadata
from hedgerow.server.library import Indexed, Library
from hedgerow.server.metrics import Metrics
from hedgerow.server.modelconfig import ModelConfig, TransactionPolicy
from hedgerow.server.models import Held, Served, Slot
from hedgerow.server.recording import Counted, Record, Recorder
from hedgerow.server.repository import Repository, is_folder
from hedgerow.server.residents import Residents
from hedgerow.server.scheduler import Piece, Scheduler
from hedgerow.server.statistics import Window
from hedgerow.server.systemd import Patience
from hedgerow.server.workers import Workers

if TYPE_CHECKING:
    from hedgerow.server.backends import Arrays, TextRequest
    from hedgerow.server.degradation import Policy
    from hedgerow.server.fallback.service import Fallback
    from hedgerow.server.residency import Rules

CURRENT = "current"
# A model's own threads do the work of one call; the second keeps them busy between two.
_INFER_THREADS = 2
# A model whose last request will not end keeps the process no longer than this.
_CLOSE_S = 5.0
# When a caller may try again: most models that a Pi serves are loaded in a second or two.
_STARTING_S = 2


@dataclass(frozen=True)
class Prepared:
    """A version that stands beside the one in service: seconds it took to load, golden inputs it answered."""

    load_s: float
    golden: int


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
        threads: int | None = None,
        batching: Batching = NONE,
        degradation: Policy | None = None,
        residency: Rules | None = None,
    ) -> None:
        self._models_dir = models_dir
        self._model = model
        self._limits = limits or Limits()
        self._threads = threads
        self._batching = batching
        self._slots: dict[str, Slot] = {} if model is None else {model: Slot(model)}
        self._errors: dict[str, str] = {}
        self._opened = model is not None
        self._scheduler = Scheduler(active=self._limits.generations, queue=self._limits.queue)
        self._workers = Workers(threads=_INFER_THREADS, queue=self._limits.queue, on_batch=self._count_batch)
        self._change = asyncio.Lock()
        self._patience = Patience()
        self.metrics = Metrics(lambda: self.queue_depth)
        # Looking up a metric by its labels takes longer than counting.
        self._batch_size = functools.cache(self.metrics.batch_size.labels)
        self._library: Library | None = None
        self._keeping: asyncio.Task[None] | None = None
        self.on_demand = model is None and residency is not None
        if model is None:
            self._library = Library(
                Repository(models_dir),
                self._slots,
                threads=threads,
                patience=self._patience.loading,
                changed=self._changed,
                unload_s=self._limits.drain_s,
                residents=None if residency is None else Residents(residency, self._slots, self.metrics),
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
            threads=threads,
            serving=lambda: None if model is None else self.serving(model),
            restore=self._restore,
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
        return self._errors.get(name)

    def serving_figures(self, *, restarts: int | None) -> Serving:
        """The health report's figures of the last minutes."""
        return self.window.serving(time.monotonic(), queue=self.queue_depth, restarts=restarts)

    # ── loading and swapping ────────────────────────────────────────────────

    async def open_current(self) -> bool:
        """Serve what ``models_dir/<model>/current`` names; False where that is nothing, or cannot be (``error``)."""
        if self._model is None:
            raise RuntimeError("no model was named")
        folder = self._models_dir / self._model / CURRENT
        if not folder.exists():
            return False
        try:
            await self._open(self._model, folder.resolve(), check_golden=False)
        except Unusable as error:
            self._errors[self._model] = error.text
            return False
        self._switch(self._model)
        return True

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
        found: list[Indexed] = []
        for name, slot in self._slots.items():
            found += [Indexed(name, model.version, "READY") for model in slot.all]
            if not slot.all:
                found.append(Indexed(name, "", "UNAVAILABLE", self._errors.get(name, "no version is active")))
        return found

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
        if name not in self._slots:
            raise Unusable("other_model", f"this server serves {' and '.join(self.names)}, not {name}")
        folder = self._models_dir / name / version
        if "/" in version or version in {"", ".", ".."} or not is_folder(folder):
            raise NotFound(f"{name}@{version} is not on this device")
        async with self._change:
            return await self._open(name, folder, check_golden=True)

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
            before = self._switch(name)
            return self.served(name), before

    async def discard(self, name: str) -> None:
        """Forget the version that was prepared."""
        async with self._change:
            if name in self._slots:
                self._slots[name].discard()

    async def _open(self, name: str, folder: Path, *, check_golden: bool) -> Prepared:
        started = time.monotonic()
        with self._patience.loading():
            loaded = await asyncio.to_thread(
                loading.load, name, folder, threads=self._threads, check_golden=check_golden
            )
        self._slots[name].prepare(loaded.model)
        return Prepared(round(time.monotonic() - started, 3), loaded.golden)

    async def _restore(self) -> None:
        """Load the version in service again, whose memory a smaller model had; its history goes on."""
        async with self._change:
            before = None if self._model is None else self.serving(self._model)
            if before is None or not before.retired:
                return
            folder = self._models_dir / before.name / before.version
            with self._patience.loading():
                loaded = await asyncio.to_thread(
                    loading.load, before.name, folder, threads=self._threads, check_golden=True
                )
            loaded.model.since, loaded.model.statistics = before.since, before.statistics
            self._slots[before.name].serving = loaded.model

    def _switch(self, name: str) -> Served | None:
        before = self._slots[name].switch()
        self._errors.pop(name, None)
        self._changed([self.served(name)], [] if before is None else [before])
        return before

    # ── requests ────────────────────────────────────────────────────────────

    def metadata(self, name: str, version: str | None = None) -> ModelMetadata:
        """What a model takes and gives; a text model has no tensors.

        Raises:
            NotFound.
        """
        served = self.served(name, version)
        inputs, outputs = (tuple(getattr(served.backend, side, ())) for side in ("inputs", "outputs"))
        versions = tuple(model.version for model in self._slots[name].all)
        return ModelMetadata(name, versions, served.backend.platform, inputs, outputs)

    def config(self, name: str, version: str | None = None) -> ModelConfig:
        """A model's configuration.

        Raises:
            NotFound.
        """
        known = self.metadata(name, version)
        served = self.served(name, version)
        config = served.config or ModelConfig()
        batched = config.max_batch_size > 0
        return structs.replace(
            config,
            name=name,
            platform=config.platform or known.platform,
            backend=config.backend or modelconfig.backend_of(known.platform),
            input=config.input or modelconfig.tensors(known.inputs, batched=batched),
            output=config.output or modelconfig.tensors(known.outputs, batched=batched),
            model_transaction_policy=TransactionPolicy(decoupled=hasattr(served.backend, "begin")),
        )

    def statistics(self, name: str | None = None, version: str | None = None) -> list[Served]:
        """The versions in service whose ``statistics`` are asked for: of one name, or all.

        Raises:
            NotFound.
        """
        if name is None:
            return [model for slot in self._slots.values() for model in slot.all]
        served = self.served(name, version)
        return [served] if version is not None else self._slots[name].all

    async def infer(self, request: InferRequest, *, protocol: str) -> InferResponse:
        """Run a tensor model.

        Raises:
            NotFound, BadRequest, Overloaded.
        """
        with (
            self._request(request.model, protocol) as record,
            await self._held(request.model, request.version) as model,
        ):
            record.served_by(model)
            if not hasattr(model.backend, "infer"):
                raise BadRequest(f"model '{request.model}' takes text: POST /v2/models/{request.model}/generate")
            outputs = [each.name for each in request.outputs]
            _check(model, request.inputs, outputs)
            _check_batch(model, request.inputs)
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
            NotFound, BadRequest, Overloaded: before the first piece.
        """
        with self._request(name, protocol) as record:
            pieces = self._answer(name, request, record, version)
            record.asked = request
            async with contextlib.aclosing(pieces):
                async for batch in pieces:
                    record.hears(batch)
                    yield batch

    def _answer(
        self, name: str, request: TextRequest, record: Record, version: str | None
    ) -> AsyncGenerator[list[Piece], None]:
        route = None if self.fallback is None or self.draining else self.fallback.route(name)
        if route is None or not route.may_leave(request, version=version):
            return self._own_answer(name, request, record, version)
        return route.generate(
            request,
            _Device(self, name, request, record),
            timeout_s=self._limits.timeout_s(request.timeout_s),
        )

    async def _own_answer(
        self, name: str, request: TextRequest, record: Record, version: str | None
    ) -> AsyncGenerator[list[Piece], None]:
        with await self._held(name, version, request.adapter) as model:
            record.served_by(model)
            if not hasattr(model.backend, "begin"):
                raise BadRequest(f"model '{name}' takes tensors: POST /v2/models/{name}/infer", field="model")
            if request.adapter is not None and request.adapter not in getattr(model.backend, "adapters", ()):
                raise NotFound(f"model '{name}' has no adapter '{request.adapter}'", field="model")
            canned = self.degradation.canned(model)
            if canned is not None:
                yield [Piece(canned, 0, 0, "stop")]
                return
            timeout_s = self._limits.timeout_s(request.timeout_s)
            request = dataclasses.replace(self.degradation.shortened(request, model), timeout_s=timeout_s)
            record.waits = lambda: self._scheduler.waits(request)
            pieces = self._scheduler.generate(model, request, record.progress)
            async with contextlib.aclosing(pieces):
                async for batch in pieces:
                    record.note(batch[-1])
                    yield batch

    def _count_batch(self, model: Served, rows: int) -> None:
        self._batch_size(model.name).observe(rows)

    def _request(self, name: str, protocol: str) -> Counted:
        # A name that is not served would be an unbounded label.
        return self._recorder.request(name if name in self._slots else "unknown", protocol)

    async def _held(self, name: str, version: str | None, adapter: str | None = None) -> _Hold:
        if self._library is not None:
            await self.bring(name)
        if self.draining:
            raise Draining("the server is being drained", retry_after_s=5)
        model = self.degradation.answering(self.served(name, version), exact=version is not None, adapter=adapter)
        return _Hold(model, name, self._library)

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


class _Device:
    """The device's side of a text request that may leave (``hedgerow.server.fallback.route.Device``)."""

    def __init__(self, plane: DataPlane, name: str, request: TextRequest, record: Record) -> None:
        self._plane = plane
        self._name = name
        self._request = request
        self._record = record

    @property
    def takes_requests(self) -> bool:
        return not self._plane.draining

    @property
    def in_service(self) -> bool:
        return self._plane.serving(self._name) is not None

    @property
    def expected_wait_s(self) -> float:
        return self._plane._scheduler.expected_wait_s(self._name)  # noqa: SLF001 - a part of it

    def waits(self) -> bool:
        return self._record.waits()

    def generate(self, timeout_s: float) -> AsyncGenerator[list[Piece], None]:
        request = dataclasses.replace(self._request, timeout_s=timeout_s)
        return self._plane._own_answer(self._name, request, self._record, None)  # noqa: SLF001 - a part of it

    def answered_elsewhere(self, *, failed: bool) -> None:
        self._record.answered_elsewhere(failed=failed)


def _check(model: Served, inputs: Arrays, outputs: Sequence[str]) -> None:
    """Hold names, data types and shapes to what the model declares; the runtime's own words name less."""
    specs = model.inputs
    for name, array in inputs.items():
        if name not in specs:
            raise BadRequest(f"the model has no input '{name}'; it has: {', '.join(specs)}", field=name)
        spec, got = specs[name], tensors.datatype_of(array)
        if got != spec.datatype:
            raise BadRequest(f"input '{name}' is {spec.datatype}, not {got}", field=name)
        if not _fits(array.shape, spec.shape):
            raise BadRequest(f"input '{name}' has shape {list(spec.shape)}, not {list(array.shape)}", field=name)
    for name in specs:
        if name not in inputs:
            raise BadRequest(f"input '{name}' is missing", field=name)
    for name in outputs:
        if outputs.count(name) > 1:
            raise BadRequest(f"output '{name}' is asked for twice", field=name)
        if name not in model.outputs:
            raise BadRequest(f"the model has no output '{name}'; it has: {', '.join(model.outputs)}", field=name)


def _check_batch(model: Served, inputs: Arrays) -> None:
    most = 0 if model.config is None else model.config.max_batch_size
    if not most:
        return
    rows = {name: array.shape[0] for name, array in inputs.items()}
    if len(set(rows.values())) > 1:
        raise BadRequest(f"the inputs have batches of different sizes: {rows}")
    if max(rows.values(), default=0) > most:
        raise BadRequest(f"the batch has {max(rows.values())} rows; model '{model.name}' takes {most}")


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    # A model that declares no shape gives an empty one, as for a scalar: the runtime will tell.
    return not declared or (
        len(shape) == len(declared) and all(want in {-1, size} for size, want in zip(shape, declared, strict=True))
    )
