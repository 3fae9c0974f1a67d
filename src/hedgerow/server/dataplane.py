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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hedgerow.device.health import Serving
from hedgerow.errors import HedgerowError
from hedgerow.registry import bundle as bundles
from hedgerow.registry.manifest import FILE_NAME
from hedgerow.server import backends, golden
from hedgerow.server.config import Limits
from hedgerow.server.errors import BadRequest, NotFound, Overloaded, ServingError, Unusable
from hedgerow.server.metrics import Metrics
from hedgerow.server.models import Served, Slot
from hedgerow.server.scheduler import Piece, Scheduler
from hedgerow.server.statistics import Sample, Window

if TYPE_CHECKING:
    from hedgerow.server.backends import Arrays, TensorBackend, TensorSpec, TextRequest

CURRENT = "current"
_PLAIN_VERSION = "1"
# From here on the fault is the server's (RFC 9110, section 15.6).
_SERVER_FAULT = 500


@dataclass(frozen=True)
class Prepared:
    """A version that stands beside the one in service: seconds it took to load, golden inputs it answered."""

    load_s: float
    golden: int


class DataPlane:
    """Models below ``models_dir/<name>/<version>``, each name served from the version that ``current`` points at."""

    def __init__(self, models_dir: Path, *, limits: Limits | None = None, threads: int | None = None) -> None:
        self._models_dir = models_dir
        self._limits = limits or Limits()
        self._threads = threads
        self._slots: dict[str, Slot] = {}
        self._errors: dict[str, str] = {}
        self._scheduler = Scheduler(active=self._limits.generations, queue=self._limits.queue)
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="infer")
        self._change = asyncio.Lock()
        self.draining = False
        self.window = Window()
        self.metrics = Metrics(lambda: self._scheduler.queue_depth)

    # ── what is served ──────────────────────────────────────────────────────

    @property
    def names(self) -> list[str]:
        """Every name that has a slot."""
        return sorted(self._slots)

    def ready(self, name: str | None = None) -> bool:
        """Whether requests are taken: for ``name``, else for every name (and there is one)."""
        if self.draining or not self._slots:
            return False
        slots = [self._slots[name]] if name in self._slots else [] if name else list(self._slots.values())
        return bool(slots) and all(slot.serving is not None for slot in slots)

    def served(self, name: str, version: str | None = None) -> Served:
        """The model in service.

        Raises:
            NotFound: no such name, or another version.
        """
        slot = self._slots.get(name)
        if slot is None or slot.serving is None:
            known = ", ".join(self.names) or "none"
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
        return self.window.serving(time.monotonic(), queue=self._scheduler.queue_depth, restarts=restarts)

    # ── loading and swapping ────────────────────────────────────────────────

    async def open_current(self, name: str) -> bool:
        """Serve ``models_dir/<name>/current``; False where there is none. A model that fails is kept as ``error``."""
        folder = self._models_dir / name / CURRENT
        self._slots.setdefault(name, Slot(name))
        if not folder.exists():
            return False
        try:
            await self._open(name, folder.resolve(), check_golden=False)
        except ServingError as error:
            self._errors[name] = error.text
            return False
        self._switch(name)
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
            Unusable: ``load_failed`` or ``golden_failed``; the version in service is untouched.
        """
        folder = self._models_dir / name / version
        if not folder.is_dir() or "/" in name or "/" in version or version in {".", ".."}:
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
        model, tried = await asyncio.to_thread(self._load, name, folder, check_golden)
        slot = self._slots.setdefault(name, Slot(name))
        slot.prepare(model)
        return Prepared(round(time.monotonic() - started, 3), tried)

    def _load(self, name: str, folder: Path, check_golden: bool) -> tuple[Served, int]:  # noqa: FBT001
        version, sha256, manifest = _PLAIN_VERSION, None, None
        if (folder / FILE_NAME).is_file():
            try:
                bundle = bundles.load(folder)
            except HedgerowError as error:
                raise Unusable("load_failed", error.what) from error
            version, sha256, manifest = bundle.manifest.version, bundle.sha256, bundle.manifest
        backend = backends.load(folder, threads=self._threads)
        tried = 0
        if check_golden and manifest is not None:
            wrong = golden.failures(manifest, backend)
            if wrong:
                backend.close()
                raise Unusable("golden_failed", "; ".join(wrong))
            tried = len(manifest.golden)
        return Served(name, version, sha256, backend, datetime.now(UTC)), tried

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
        with self._request(name, protocol) as record, self._hold(name, version) as model:
            record.version = model.version
            if not hasattr(model.backend, "infer"):
                raise BadRequest(f"model '{name}' takes conversations: POST /v1/chat/completions")
            backend = cast("TensorBackend", model.backend)
            _check_names(backend, inputs, outputs)
            loop = asyncio.get_running_loop()
            return model, await loop.run_in_executor(self._pool, backend.infer, inputs, outputs)

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

    @contextlib.contextmanager
    def _hold(self, name: str, version: str | None) -> Iterator[Served]:
        if self.draining:
            raise Overloaded("the server is being drained", retry_after_s=5)
        with self.served(name, version).hold() as model:
            yield model

    @contextlib.contextmanager
    def _request(self, name: str, protocol: str) -> Iterator[_Record]:
        """Count a request. A caller who goes away has not found an error."""
        record = _Record(time.monotonic())
        code = 200
        self.metrics.inflight.inc()
        try:
            yield record
        except ServingError as error:
            code = error.status
            raise
        except (GeneratorExit, asyncio.CancelledError):
            code = 499  # as nginx names a client that closed its request
            raise
        except BaseException:
            code = 500
            raise
        finally:
            self.metrics.inflight.dec()
            # A name that is not served would be an unbounded label.
            known = name if name in self._slots else "unknown"
            self._finish(record, known, protocol, code)

    def _finish(self, record: _Record, name: str, protocol: str, code: int) -> None:
        now = time.monotonic()
        self.metrics.requests.labels(name, record.version, protocol, code).inc()
        self.metrics.duration.labels(name, protocol).observe(now - record.started)
        if record.first is not None:
            self.metrics.first_token.labels(name).observe(record.first - record.started)
            self.metrics.tokens.labels(name, "prompt").inc(record.prompt_tokens)
            self.metrics.tokens.labels(name, "generated").inc(record.tokens)
        # Only what the server is to blame for counts against it.
        self.window.add(
            Sample(
                at=now,
                duration_s=now - record.started,
                failed=code >= _SERVER_FAULT,
                ttft_s=None if record.first is None else record.first - record.started,
                tokens=record.tokens,
                generation_s=0.0 if record.first is None else record.last - record.first,
            )
        )

    async def close(self) -> None:
        """Let every model go; requests must have ended."""
        self._pool.shutdown(wait=False)
        await asyncio.to_thread(self._scheduler.close)
        for slot in self._slots.values():
            slot.discard()
            if slot.serving is not None:
                slot.serving.retire()


class _Record:
    """What is known of one request while it runs; times are monotonic seconds."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.version = ""
        self.first: float | None = None
        self.last = started
        self.tokens = 0
        self.prompt_tokens = 0

    def note(self, piece: Piece) -> None:
        self.last = time.monotonic()
        if self.first is None:
            self.first = self.last
        self.tokens, self.prompt_tokens = piece.tokens, piece.prompt_tokens


def _check_names(backend: TensorBackend, inputs: Arrays, outputs: Sequence[str]) -> None:
    specs = {spec.name: spec for spec in backend.inputs}
    for name in inputs:
        if name not in specs:
            raise BadRequest(f"the model has no input '{name}'; it has: {', '.join(specs)}", field=name)
    for name in specs:
        if name not in inputs:
            raise BadRequest(f"input '{name}' is missing", field=name)
    known = [spec.name for spec in backend.outputs]
    for name in outputs:
        if name not in known:
            raise BadRequest(f"the model has no output '{name}'; it has: {', '.join(known)}", field=name)
