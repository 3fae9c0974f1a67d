"""What the last minutes were like: a sliding window of finished requests. The caller tells the time (monotonic)."""

from __future__ import annotations

import collections
import math
import threading
from collections.abc import Sequence

from msgspec import Struct

from hedgerow.device.health import Serving

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
    """Samples of the last ``WINDOW_S`` seconds; any thread may add and read."""

    def __init__(self) -> None:
        self._samples: collections.deque[Sample] = collections.deque(maxlen=MAX_SAMPLES)
        self._lock = threading.Lock()

    def add(self, sample: Sample) -> None:
        with self._lock:
            self._samples.append(sample)

    def serving(self, now: float, *, queue: int, restarts: int | None) -> Serving:
        """The health report's figures."""
        with self._lock:
            samples = [each for each in self._samples if now - each.at <= WINDOW_S]
        durations = sorted(each.duration_s * 1000 for each in samples if not each.failed)
        firsts = sorted(each.ttft_s * 1000 for each in samples if each.ttft_s is not None)
        # The first token's wait is the prompt's; speed is what follows it.
        streams = [each for each in samples if each.tokens > 1 and each.generation_s > 0]
        seconds = sum(each.generation_s for each in streams)
        return Serving(
            window_s=WINDOW_S,
            requests=len(samples),
            errors=sum(each.failed for each in samples),
            p50_ms=percentile(durations, 0.50),
            p95_ms=percentile(durations, 0.95),
            p99_ms=percentile(durations, 0.99),
            ttft_p95_ms=percentile(firsts, 0.95),
            tokens_per_s=round(sum(each.tokens - 1 for each in streams) / seconds, 1) if seconds else None,
            queue=queue,
            restarts=restarts,
        )


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile of ascending values; None where there are none."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 2)
