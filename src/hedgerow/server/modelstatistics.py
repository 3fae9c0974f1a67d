"""What the statistics extension says of a loaded version: how many requests, and where their time went.

Source: Triton, "Statistics Extension". Durations are nanoseconds. Not told apart from the computing itself: the time in
which inputs are gathered and outputs are handed on, which is none of the model's.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Duration:
    """How often, and how long altogether."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns


@dataclass
class Batch:
    """Runs of one number of rows."""

    batch_size: int
    compute: Duration = field(default_factory=Duration)


@dataclass
class ModelStatistics:
    """Since it was loaded; used from one event loop. ``last_inference``: milliseconds since 1970.

    ``rows`` were computed in ``executions`` runs.
    """

    last_inference: int = 0
    rows: int = 0
    executions: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute: Duration = field(default_factory=Duration)
    batches: dict[int, Batch] = field(default_factory=dict)

    def ran(self, rows: int, waits_ns: list[int], compute_ns: int) -> None:
        """A run ended: how long each of its requests had waited, and how long it took."""
        self.executions += 1
        self.rows += rows
        for wait_ns in waits_ns:
            self.queue.add(wait_ns)
            self.compute.add(compute_ns)
        batch = self.batches.get(rows)
        if batch is None:
            batch = self.batches[rows] = Batch(rows)
        batch.compute.add(compute_ns)

    def ended(self, duration_ns: int, *, failed: bool, at_ms: int) -> None:
        """A request was answered."""
        (self.fail if failed else self.success).add(duration_ns)
        self.last_inference = at_ms
