"""Carries out what ``degradation`` decides: which model answers, how much, or nobody.

Invariants:

- What a caller asks for by its version is never answered by a smaller model: 503 instead.
- A smaller model answers nothing before it has answered its own golden inputs, and takes what the model in service
  takes.
- Short of memory, the model in service gives its memory back once the smaller one answers (it is *parked*), and the
  smaller one answers until the other is loaded again. Otherwise both stay loaded, so that going back costs nothing.
- Requests that run end as they began.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hedgerow.device.health import DegradationState, Step
from hedgerow.errors import HedgerowError
from hedgerow.registry import manifest as manifests
from hedgerow.server import loading
from hedgerow.server.degradation import Level, Policy, Readings, State, decide
from hedgerow.server.errors import Overloaded, ServingError, UnderPressure

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from hedgerow.server.backends import TensorSpec, TextRequest
    from hedgerow.server.computing import Computing
    from hedgerow.server.metrics import Metrics
    from hedgerow.server.models import Served

log = logging.getLogger("hedgerow.server")

_MB = 1 << 20
# Sent away for no longer than this; a board may cool sooner than its stay is over.
_LONGEST_WAIT_S = 60


class Degradation:
    """One server's. ``policy`` None: it never gives less. Used from one event loop.

    ``serving`` is the model in service, ``restore`` loads it again after it was parked. ``clock`` is monotonic seconds.
    """

    def __init__(
        self,
        policy: Policy | None,
        *,
        models_dir: Path,
        computing: Computing,
        serving: Callable[[], Served | None],
        restore: Callable[[], Awaitable[None]],
        patience: Callable[[], AbstractContextManager[None]],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._models_dir = models_dir
        self._computing = computing
        self._serving = serving
        self._restore = restore
        self._patience = patience
        self._metrics = metrics
        self._clock = clock
        self._state = State()
        self._since = datetime.now(UTC)
        self._smaller: Served | None = None
        self._hindered: str | None = None
        self._again_s = 0.0

    @property
    def level(self) -> Level:
        """How far the server has stepped down."""
        return self._state.level

    @property
    def stood_in(self) -> bool:
        """Whether another than the model in service answers, or nobody: answers say nothing of that model."""
        return self._state.level == Level.SHED or self._smaller is not None

    def shown(self) -> DegradationState | None:
        """For the health report; None while all is given."""
        if self._state.level == Level.FULL and self._smaller is None:
            return None
        level, smaller, steps = self._state.level, self._smaller, list[Step]()
        if level == Level.SHED:
            model = self._serving()
            steps.append("load_shed" if model is None or self._canned(model) is None else "answers_canned")
        else:
            steps += ["smaller_model"] if smaller is not None else []
            steps += ["answers_shortened"] if level == Level.SHORTEN else []
        return DegradationState(
            level=max(level, Level.SMALLER),
            steps=tuple(steps),
            reason=self._state.reason or self._hindered or "",
            since=self._since,
            answers=None if smaller is None or level == Level.SHED else f"{smaller.name}@{smaller.version}",
            hindered=self._hindered,
        )

    # ── requests ────────────────────────────────────────────────────────────

    def canned(self, model: Served) -> str | None:
        """The prepared answer, where ``model`` is not to be asked and there is one."""
        if self._state.level < Level.SHED:
            return None
        self._count("answers_canned")
        return self._canned(model)

    def answering(self, model: Served, *, exact: bool = False, adapter: str | None = None) -> Served:
        """Which model answers a request for ``model``; ``exact``: it named a version.

        Raises:
            UnderPressure: none does, and there is no prepared answer.
        """
        if self._state.level == Level.SHED:
            if self._canned(model) is not None:
                return model
            self._count("load_shed")
            raise UnderPressure(
                f"the board is under pressure: {self._state.reason}", retry_after_s=self._retry_after_s()
            )
        smaller = self._smaller
        if smaller is None:
            return model
        if not exact and (adapter is None or adapter in getattr(smaller.backend, "adapters", ())):
            self._count("smaller_model")
            return smaller
        if model.retired:
            text = f"{model.name}@{model.version} has given its memory to a smaller model"
            raise UnderPressure(f"{text}: {self._state.reason}", retry_after_s=self._retry_after_s())
        return model

    def shortened(self, request: TextRequest, model: Served) -> TextRequest:
        """``request`` with no more tokens than there are now; ``model``'s golden questions are answered whole."""
        if self._policy is None or self._state.level < Level.SHORTEN:
            return request
        most = max(self._policy.max_tokens, model.golden_tokens)
        if request.max_tokens <= most:
            return request
        self._count("answers_shortened")
        return dataclasses.replace(request, max_tokens=most)

    # ── the board ───────────────────────────────────────────────────────────

    async def watch(self, read: Callable[[], Readings]) -> None:
        """Read the board and follow, for as long as the server runs. ``read`` blocks."""
        while self._policy is not None:
            try:
                await self.observe(await asyncio.to_thread(read))
            except Exception:  # whatever it is, the next reading must still be followed
                log.exception("the board's state could not be followed")
            await asyncio.sleep(self._policy.every_s)

    async def observe(self, readings: Readings) -> None:
        """Decide anew and bring it about; a model is loaded before this returns."""
        if self._policy is None:
            return
        model = self._serving()
        policy = self._policy.for_model(None if model is None else model.degrade_above_c)
        if model is not None and model.retired:
            parked_mb = await asyncio.to_thread(_memory_mb, self._folder(model.name, model.version))
            readings = dataclasses.replace(readings, parked_mb=parked_mb)
        self._drop_if_other(model)
        self._decide(policy, readings, model)
        if model is not None and self._wants_smaller(model):
            await self._take(model, policy, readings)
            if self._smaller is None:  # so that the level says what is so
                self._decide(policy, readings, model)
        if self._smaller is not None and model is not None:
            if self._state.short_of_memory() and not model.retired:
                model.retire()
                log.warning("%s@%s gives its memory back: %s", model.name, model.version, self._state.reason)
            elif self._state.level == Level.FULL:
                await self._give_back(model)

    def close(self) -> Served | None:
        """Let the smaller model go, and return it."""
        gone, self._smaller = self._smaller, None
        if gone is not None:
            gone.retire()
        return gone

    def _decide(self, policy: Policy, readings: Readings, model: Served | None) -> None:
        before = self._state
        self._state = decide(before, readings, policy, self._clock(), self._steps(model))
        if self._state.level == before.level:
            return
        self._since = datetime.now(UTC)
        self._metrics.degradation_level.set(self._state.level)
        log.warning(
            "%s, was %s: %s",
            self._state.level.name.lower(),
            before.level.name.lower(),
            self._state.reason or f"no longer: {before.reason}",
        )

    def _steps(self, model: Served | None) -> set[Level]:
        steps = {Level.SHED}
        if model is not None and hasattr(model.backend, "begin"):
            steps.add(Level.SHORTEN)
        if self._smaller is not None or self._may_take(model):
            steps.add(Level.SMALLER)
        return steps

    def _may_take(self, model: Served | None) -> bool:
        """Whether the declared smaller model could answer, for all that is known before it is loaded."""
        reference = None if self._policy is None else self._policy.smaller
        if reference is None or model is None:
            return False
        if not self._folder(reference.name, reference.version).is_dir():
            self._hinder(f"{reference} is not on this device: hedgerow-device stage {reference}")
            return False
        if (reference.name, reference.version) == (model.name, model.version):
            self._hinder(f"{reference} is the model in service itself")
            return False
        return self._clock() >= self._again_s

    def _hinder(self, why: str) -> None:
        if why != self._hindered:
            log.warning("the smaller model cannot answer: %s", why)
        self._hindered = why

    def _wants_smaller(self, model: Served) -> bool:
        # Where nobody is answered, loading would only make it worse.
        return Level.FULL < self._state.level < Level.SHED and self._smaller is None and self._may_take(model)

    async def _take(self, model: Served, policy: Policy, readings: Readings) -> None:
        reference = policy.smaller
        if reference is None:
            return
        folder = self._folder(reference.name, reference.version)
        try:
            needed, available = await asyncio.to_thread(_memory_mb, folder), readings.memory_available_mb
            floor = 0.0 if policy.memory_available_mb.shed is None else policy.memory_available_mb.shed.enter
            if available is not None and available - needed < floor:
                raise Overloaded(
                    f"{reference} needs {needed:.0f} MB; {available:.0f} MB are available, {floor:.0f} stay free"
                )
            with self._patience():
                loaded = await asyncio.to_thread(
                    loading.load, reference.name, folder, computing=self._computing, check_golden=True
                )
        except (ServingError, OSError) as error:
            self._hinder(str(error))
            self._again_s = self._clock() + policy.minimum_stay_s
            return
        why = _difference(model, loaded.model)
        if why is not None:
            loaded.model.retire()
            self._hinder(f"{reference} cannot answer for {model.name}@{model.version}: {why}")
            self._again_s = self._clock() + policy.minimum_stay_s
            return
        self._smaller, self._hindered = loaded.model, None
        log.warning("%s answers for %s@%s: %s", reference, model.name, model.version, self._state.reason)

    async def _give_back(self, model: Served) -> None:
        """The model in service answers again."""
        if model.retired:
            if self._clock() < self._again_s:
                return
            try:
                await self._restore()
            except ServingError as error:
                self._hindered = f"{model.name}@{model.version} cannot be loaded again: {error}"
                self._again_s = self._clock() + (0.0 if self._policy is None else self._policy.minimum_stay_s)
                log.error("%s", self._hindered)  # noqa: TRY400 - the message is complete
                return
        self.close()
        self._hindered = None
        log.info("%s@%s answers again", model.name, model.version)

    def _drop_if_other(self, model: Served | None) -> None:
        """Another version is in service since: the smaller model may not take what that does."""
        if self._smaller is not None and model is not None and _difference(model, self._smaller) is not None:
            self.close()

    def _folder(self, name: str, version: str) -> Path:
        return self._models_dir / name / version

    def _canned(self, model: Served) -> str | None:
        return None if self._policy is None or not hasattr(model.backend, "begin") else self._policy.canned_answer

    def _retry_after_s(self) -> int:
        stay_s = 0.0 if self._policy is None else self._policy.minimum_stay_s
        left_s = self._state.since_s + stay_s - self._clock()
        return min(max(1, math.ceil(left_s)), _LONGEST_WAIT_S)

    def _count(self, step: Step) -> None:
        self._metrics.degraded_requests.labels(step).inc()


def _difference(model: Served, other: Served) -> str | None:
    """What ``other`` takes or gives otherwise than ``model``; None: nothing that a caller would notice."""
    if hasattr(model.backend, "begin") != hasattr(other.backend, "begin"):
        return "one takes text, the other tensors"
    for side in ("inputs", "outputs"):
        mine, its = ({spec.name: spec for spec in getattr(each.backend, side, ())} for each in (model, other))
        if mine.keys() != its.keys() or not all(_stands_in(its[name], spec) for name, spec in mine.items()):
            return f"its {side} are {_written(its)}, not {_written(mine)}"
    return None


def _stands_in(its: TensorSpec, mine: TensorSpec) -> bool:
    """Whether every tensor that ``mine`` allows fits ``its``, too."""
    same = its.datatype == mine.datatype and len(its.shape) == len(mine.shape)
    return same and all(size in {-1, want} for size, want in zip(its.shape, mine.shape, strict=True))


def _written(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.datatype}{list(spec.shape)}" for spec in specs.values())


def _memory_mb(folder: Path) -> float:
    """What a model takes: its bundle's word, else the size of its files. Blocks."""
    try:
        data = (folder / manifests.FILE_NAME).read_bytes()
        return manifests.decode(data, where=str(folder)).requires.memory_mb
    except (OSError, HedgerowError):
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / _MB
