"""All behaviour of the server, free of any transport: protocol adapters call this and nothing else.

Invariants:

- A name is served from one slot; what a request began on stays loaded until it ends (``models``).
- Work that blocks runs on threads: tensors on a small pool, text on the scheduler's one.
- Every finished request is counted once, whichever protocol it came by.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hedgerow.device.health import Serving
from hedgerow.server import loading, tensors
from hedgerow.server.config import Limits
from hedgerow.server.drain import Drain
from hedgerow.server.errors import BadRequest, Draining, NotFound, Starting, Unusable
from hedgerow.server.metrics import Metrics
from hedgerow.server.models import Served, Slot
from hedgerow.server.recording import Record, Recorder
from hedgerow.server.scheduler import Piece, Scheduler
from hedgerow.server.statistics import Window
from hedgerow.server.systemd import Patience
from hedgerow.server.workers import Workers

if TYPE_CHECKING:
    from hedgerow.server.backends import Arrays, TensorBackend, TensorSpec, TextRequest

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
    """Models below ``models_dir/<name>/<version>``, each name served from the version that ``current`` points at.

    ``model``: the one name that a device serves; None serves every folder that ``open_folder`` is told.
    """

    def __init__(
        self,
        models_dir: Path,
        *,
        model: str | None = None,
        limits: Limits | None = None,
        threads: int | None = None,
    ) -> None:
        self._models_dir = models_dir
        self._model = model
        self._limits = limits or Limits()
        self._threads = threads
        self._slots: dict[str, Slot] = {} if model is None else {model: Slot(model)}
        self._errors: dict[str, str] = {}
        self._scheduler = Scheduler(active=self._limits.generations, queue=self._limits.queue)
        self._workers = Workers(threads=_INFER_THREADS, queue=self._limits.queue)
        self._change = asyncio.Lock()
        self._patience = Patience()
        # Set once, when the process stops; ``drain`` is an operator's and ends.
        self.stopping = False
        self.drain = Drain()
        self.window = Window()
        self.metrics = Metrics(lambda: self.queue_depth)
        self._recorder = Recorder(self.metrics, self.window)

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
    def inflight(self) -> int:
        """Requests being worked on."""
        return self._recorder.inflight

    @property
    def queue_depth(self) -> int:
        """Requests that wait for their turn."""
        return self._scheduler.queue_depth + self._workers.queue_depth

    def ready(self, name: str | None = None) -> bool:
        """Whether requests are taken: for ``name``, else for every name (and there is one)."""
        if self.draining:
            return False
        slots = [slot for slot in self._slots.values() if name is None or slot.name == name]
        return bool(slots) and all(slot.serving is not None for slot in slots)

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
        if slot is None or slot.serving is None:
            known = ", ".join(each.name for each in self._slots.values() if each.serving is not None)
            if not known:
                # The caller is not wrong, and another host may answer: a gateway takes 503 for that, and 404 for final.
                raise Starting("no model is in service here yet", retry_after_s=_STARTING_S)
            raise NotFound(f"model '{name}' is not served here; served: {known}")
        if version is not None and version != slot.serving.version:
            raise NotFound(f"model '{name}' is served in version {slot.serving.version}, not {version}")
        return slot.serving

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

    async def open_folder(self, name: str, folder: Path) -> None:
        """Serve a model folder under ``name``, for workstations.

        Raises:
            Unusable: it cannot be loaded.
        """
        self._slots.setdefault(name, Slot(name))
        await self._open(name, folder, check_golden=False)
        self._switch(name)

    async def prepare(self, name: str, version: str) -> Prepared:
        """Load a version beside the one in service and put its golden inputs to it.

        Raises:
            NotFound: it is not on this device.
            Unusable: ``other_model``, ``load_failed`` or ``golden_failed``; the version in service is untouched.
        """
        if name not in self._slots:
            raise Unusable("other_model", f"this server serves {' and '.join(self.names)}, not {name}")
        folder = self._models_dir / name / version
        if "/" in version or version in {"", ".", ".."} or not folder.is_dir():
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

    def _switch(self, name: str) -> Served | None:
        before = self._slots[name].switch()
        self._errors.pop(name, None)
        now = self.served(name)
        if before is not None:
            self.metrics.model_info.remove(name, before.version, before.sha256 or "")
        self.metrics.model_info.labels(name, now.version, now.sha256 or "").set(1)
        return before

    # ── requests ────────────────────────────────────────────────────────────

    def tensor_specs(self, name: str, version: str | None = None) -> tuple[Sequence[TensorSpec], Sequence[TensorSpec]]:
        """Inputs and outputs of a tensor model; both empty for a text model."""
        backend = self.served(name, version).backend
        return getattr(backend, "inputs", ()), getattr(backend, "outputs", ())

    async def infer(
        self, name: str, version: str | None, inputs: Arrays, outputs: Sequence[str], *, protocol: str
    ) -> tuple[Served, Arrays]:
        """Run a tensor model.

        Raises:
            NotFound, BadRequest, Overloaded.
        """

        def work() -> Arrays:
            # Held here as well: a caller who leaves lets go while the thread still computes.
            with model.hold():
                return backend.infer(inputs, outputs)

        with self._request(name, protocol) as record, self._hold(name, version) as model:
            record.version = model.version
            if not hasattr(model.backend, "infer"):
                raise BadRequest(f"model '{name}' takes conversations: POST /v1/chat/completions")
            backend = cast("TensorBackend", model.backend)
            _check(backend, inputs, outputs)
            return model, await self._workers.run(work)

    async def generate(self, name: str, request: TextRequest, *, protocol: str) -> AsyncGenerator[list[Piece], None]:
        """Yield an answer's pieces, all that are ready at once; leaving early cancels it.

        Raises:
            NotFound, BadRequest, Overloaded: before the first piece.
        """
        with self._request(name, protocol) as record, self._hold(name, None) as model:
            record.version = model.version
            if not hasattr(model.backend, "begin"):
                raise BadRequest(f"model '{name}' takes tensors: POST /v2/models/{name}/infer", field="model")
            pieces = self._scheduler.generate(model, request)
            async with contextlib.aclosing(pieces):
                async for batch in pieces:
                    record.note(batch[-1])
                    yield batch

    def _request(self, name: str, protocol: str) -> contextlib.AbstractContextManager[Record]:
        # A name that is not served would be an unbounded label.
        return self._recorder.request(name if name in self._slots else "unknown", protocol)

    @contextlib.contextmanager
    def _hold(self, name: str, version: str | None) -> Iterator[Served]:
        if self.draining:
            raise Draining("the server is being drained", retry_after_s=5)
        with self.served(name, version).hold() as model:
            yield model

    async def close(self) -> None:
        """Let every model go; what still runs ends with an error."""
        await asyncio.to_thread(self._workers.close)
        await asyncio.to_thread(self._scheduler.close)
        for model in [model for slot in self._slots.values() for model in slot.empty()]:
            await asyncio.to_thread(model.wait_closed, _CLOSE_S)


def _check(backend: TensorBackend, inputs: Arrays, outputs: Sequence[str]) -> None:
    """Hold names, data types and shapes to what the model declares; the runtime's own words name less."""
    specs = {spec.name: spec for spec in backend.inputs}
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
    known = [spec.name for spec in backend.outputs]
    for name in outputs:
        if name not in known:
            raise BadRequest(f"the model has no output '{name}'; it has: {', '.join(known)}", field=name)


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    # A model that declares no shape gives an empty one, as for a scalar: the runtime will tell.
    return not declared or (
        len(shape) == len(declared) and all(want in {-1, size} for size, want in zip(shape, declared, strict=True))
    )
