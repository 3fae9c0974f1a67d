"""What the last minutes were like: a sliding window of finished requests. The caller tells the time (monotonic)."""

from __future__ import annotations

import math
import threading
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from hedgerow.device.health import Serving

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW_S = 300.0
# Enough for exact percentiles at a hundred requests a second over the window; beyond that the newest count.
MAX_SAMPLES = 30_000


class Sample(Struct, frozen=True, gc=False):
    """One finished request; seconds. ``generation_s`` is from the first token to the last."""

    at: float
    duration_s: float
    failed: bool = False
    ttft_s: float | None = None
    tokens: int = 0
    generation_s: float = 0.0


class Window:
    """Samples of the last ``WINDOW_S`` seconds; any thread may add and read.

    They lie in columns that are there from the start. As objects they would be long-lived small blocks between those of
    requests and loads, and keep Python from giving the memory of either back.
    """

    def __init__(self) -> None:
        self._added = 0
        self._at, self._duration_s, self._ttft_s, self._generation_s = (_column("d") for _ in range(4))
        self._tokens = _column("q")
        self._failed = _column("b")
        self._lock = threading.Lock()

    def add(self, sample: Sample) -> None:
        with self._lock:
            place = self._added % MAX_SAMPLES
            self._added += 1
            self._at[place] = sample.at
            self._duration_s[place] = sample.duration_s
            self._ttft_s[place] = math.nan if sample.ttft_s is None else sample.ttft_s
            self._generation_s[place] = sample.generation_s
            self._tokens[place] = sample.tokens
            self._failed[place] = sample.failed

    def serving(self, now: float, *, queue: int, restarts: int | None) -> Serving:
        """The health report's figures."""
        columns = (self._at, self._duration_s, self._ttft_s, self._generation_s, self._tokens, self._failed)
        with self._lock:
            held = min(self._added, MAX_SAMPLES)
            at, duration_s, ttft_s, generation_s, tokens, failed = (
                np.frombuffer(each, each.typecode, held).copy() if held else np.empty(0, each.typecode)
                for each in columns
            )
        recent = now - at <= WINDOW_S
        durations = np.sort(duration_s[recent & (failed == 0)]) * 1000
        firsts = np.sort(ttft_s[recent & ~np.isnan(ttft_s)]) * 1000
        # The first token's wait is the prompt's; speed is what follows it.
        streams = recent & (tokens > 1) & (generation_s > 0)
        seconds = float(generation_s[streams].sum())
        return Serving(
            window_s=WINDOW_S,
            requests=int(recent.sum()),
            errors=int((recent & (failed != 0)).sum()),
            p50_ms=percentile(durations, 0.50),
            p95_ms=percentile(durations, 0.95),
            p99_ms=percentile(durations, 0.99),
            ttft_p95_ms=percentile(firsts, 0.95),
            tokens_per_s=round(float((tokens[streams] - 1).sum()) / seconds, 1) if seconds else None,
            queue=queue,
            restarts=restarts,
        )


def _column(typecode: str) -> array[Any]:
    """Room for ``MAX_SAMPLES``. An array of the standard library takes a value in a third of NumPy's time."""
    return array(typecode, bytes(MAX_SAMPLES * array(typecode).itemsize))


def percentile(ordered: NDArray[np.float64], share: float) -> float | None:
    """Nearest-rank percentile of ascending values; None where there are none."""
    if not len(ordered):
        return None
    return round(float(ordered[max(0, math.ceil(share * len(ordered)) - 1)]), 2)
