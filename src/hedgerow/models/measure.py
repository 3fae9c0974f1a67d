"""What a bundle takes on this machine: latency, first token, tokens a second, memory; at full power, throttled, cold.

The figures go into the manifest's ``expectations`` with the machine that they are from. A figure of one machine is
none of another: these say what to expect of the same board.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

import msgspec
import numpy as np

from hedgerow.errors import MachineError, RefusedError, UsageError
from hedgerow.models import amend, measure_machine
from hedgerow.models.quantize_files import files_of
from hedgerow.models.quantize_golden import NUMPY_TYPES
from hedgerow.models.validate.builds import Build, Session, opened
from hedgerow.registry import bundle, manifest
from hedgerow.registry.bundle import Bundle
from hedgerow.registry.manifest import Expectation, GoldenTensors, GoldenText, Machine, Manifest

Condition = Literal["full-power", "throttled", "cold-start"]
CONDITIONS: Final[tuple[Condition, ...]] = ("full-power", "throttled", "cold-start")
_WORKER: Final = "hedgerow.models.measure_worker"
_COLD_STARTS: Final = 3
_TIMEOUT_S: Final = 3600.0
_STILL_CACHED: Final = 0.01
_BUSY: Final = 0.1
"""Share of waiting above which figures are the machine's and not the model's."""


@dataclass(frozen=True)
class Plan:
    """``requests`` are measured after one that is not; ``max_tokens`` an answer, for models that generate."""

    conditions: tuple[Condition, ...] = CONDITIONS
    requests: int = 50
    max_tokens: int = 64
    threads: int = 1


@dataclass(frozen=True)
class Measured:
    """Expectations of one variant, and sentences about what was left out or should be looked at.

    ``waited`` is the largest share of its time on a run queue that a process waited there, throttled ones apart.
    """

    variant: str | None
    expectations: tuple[Expectation, ...]
    remarks: tuple[str, ...]
    waited: float = 0.0

    @property
    def busy(self) -> bool:
        """Whether others had the processors too much for these figures to mean anything."""
        return self.waited > _BUSY


def measure(
    folder: Path,
    plan: Plan,
    *,
    today: date,
    variant: str | None = None,
    machine: Machine | None = None,
    progress: Callable[[str], None] = lambda _step: None,
) -> Measured:
    """Run the bundle's first golden question under each condition, each in a process of its own.

    Raises:
        UsageError: no bundle with an ONNX model and a golden question, or no such variant.
        PublisherError: a file is not what the manifest says.
        MachineError: the model could not be run here.
    """
    machine = machine or measure_machine.describe()
    found: list[Expectation] = []
    remarks: list[str] = []
    waited = 0.0
    with opened(folder, variant) as build, tempfile.TemporaryDirectory(prefix="measure.") as scratch:
        if build.document is None:
            raise UsageError("no manifest here", where=str(folder), next_step="name a bundle's folder")
        job = _job(build, plan, Path(scratch))
        for condition in plan.conditions:
            progress(f"{build.label}: {condition}")
            try:
                answers, how = _run(condition, job, build, plan)
            except measure_machine.NoThrottle as error:
                remarks.append(f"no throttled figures: {error}")
                continue
            found.append(_expectation(condition, answers, machine, plan, how=how, today=today))
            if condition != "throttled":  # who is throttled waits; that is the point
                waited = max([waited, *(each["waited"] for each in answers)])
        peak = max((each.peak_memory_mb or 0 for each in found), default=0)
        if peak > build.document.requires.memory_mb:
            remarks.append(
                f"it took {peak:.0f} MB at the peak, and requires.memory_mb is {build.document.requires.memory_mb}: "
                "hosts would be chosen that are too small"
            )
        if waited > _BUSY:
            remarks.append(
                f"this machine was busy: the model waited {waited:.0%} of its time for a processor, so these figures "
                "are not its own; measure again when nothing else runs"
            )
        return Measured(build.document.variant, tuple(found), tuple(remarks), waited)


def write(folder: Path, measured: Sequence[Measured]) -> Bundle:
    """Put the figures into the bundle's manifest, in place of those of the same variants.

    Raises:
        RefusedError: the machine was busy while they were taken.
        UsageError, PublisherError, MachineError: as ``amend.add_files``.
    """
    busy = max((each.waited for each in measured if each.busy), default=None)
    if busy is not None:
        raise RefusedError(
            f"rule measured-at-rest: the model waited {busy:.0%} of its time for a processor, {_BUSY:.0%} are allowed",
            where=str(folder),
            next_step="run it again when nothing else runs here",
        )
    by_name = {each.variant: each.expectations for each in measured}

    def change(document: Manifest) -> Manifest:
        if not document.variants:
            return msgspec.structs.replace(document, schema=manifest.NEWEST, expectations=by_name[document.variant])
        variants = tuple(
            msgspec.structs.replace(each, expectations=by_name.get(each.name, each.expectations))
            for each in document.variants
        )
        return msgspec.structs.replace(document, variants=variants)

    return amend.add_files(folder, {}, change)


def names(folder: Path) -> list[str | None]:
    """The variants to measure: every one's name, or None for a bundle without variants."""
    return [each.name for each in bundle.load(folder).manifest.variants] or [None]


def _job(build: Build, plan: Plan, scratch: Path) -> dict[str, Any]:
    job: dict[str, Any] = {"model": str(build.model), "folder": str(build.folder), "generates": build.generates}
    job |= {"requests": plan.requests, "threads": plan.threads, "max_tokens": plan.max_tokens}
    texts = [each for each in build.golden if isinstance(each, GoldenText)]
    tensors = [each for each in build.golden if isinstance(each, GoldenTensors)]
    if build.generates and texts:
        return job | {"messages": msgspec.to_builtins(texts[0].messages)}
    if tensors and not build.generates:
        types = Session(build.model).types
        feed: dict[str, Any] = {
            each.name: np.array(each.data, NUMPY_TYPES.get(types[each.name], np.float32)).reshape(each.shape)
            for each in tensors[0].inputs
        }
        np.savez(scratch / "feed.npz", **feed)
        return job | {"feed": str(scratch / "feed.npz")}
    raise UsageError(
        "the bundle has no golden question that its model could be timed with",
        where=build.label,
        next_step="import the model again: hedgerow model import",
    )


def _run(
    condition: Condition, job: dict[str, Any], build: Build, plan: Plan
) -> tuple[list[dict[str, Any]], str | None]:
    """What the workers said, and by what means the condition came about."""
    if condition == "full-power":
        return [_ask((), job)], None
    if condition == "throttled":
        with measure_machine.throttle(plan.threads) as throttle:
            return [_ask(throttle.prefix, job)], throttle.how
    answers, held = [], []
    files = [path.resolve() for path in files_of(build.model)]
    for _ in range(_COLD_STARTS):
        held.append(measure_machine.drop_cached(files))
        answers.append(_ask((), job | {"requests": 1}))
    left = f", {max(held):.0%} of them stayed" if max(held) > _STILL_CACHED else ""
    return answers, f"the model's pages dropped from the page cache (posix_fadvise){left}; median of {_COLD_STARTS}"


def _ask(prefix: Sequence[str], job: dict[str, Any]) -> dict[str, Any]:
    command = [*prefix, sys.executable, "-m", _WORKER, json.dumps(job)]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=_TIMEOUT_S)
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
        raise MachineError(
            f"the model could not be measured: {said[-1] if said else error}",
            where=job["model"],
            next_step="does it run at all? hedgerow model validate BUNDLE --against BUNDLE …",
        ) from error
    return answer


def _expectation(
    condition: Condition, answers: list[dict[str, Any]], machine: Machine, plan: Plan, *, how: str | None, today: date
) -> Expectation:
    def of(key: str, share: float) -> float | None:
        values = [value for each in answers for value in each.get(key, [])]
        return _rounded(float(np.percentile(values, share))) if values else None

    cold = condition == "cold-start"
    figures: dict[str, float | None] = {"load_ms": _rounded(median(each["load_ms"] for each in answers))}
    if not cold:
        figures |= {"p50_ms": of("latency_ms", 50), "p95_ms": of("latency_ms", 95), "p99_ms": of("latency_ms", 99)}
        figures |= {"ttft_p50_ms": of("ttft_ms", 50), "ttft_p95_ms": of("ttft_ms", 95)}
        figures |= {"tokens_per_s": of("tokens_per_s", 50)}
    return Expectation(
        condition=condition,
        machine=machine,
        requests=_COLD_STARTS if cold else plan.requests,
        threads=plan.threads,
        peak_memory_mb=_rounded(max(each["peak_memory_mb"] for each in answers)),
        measured=today.isoformat(),
        how=how,
        **figures,
    )


def _rounded(value: float) -> float:
    """Four digits: more would be noise."""
    return float(f"{value:.4g}")
