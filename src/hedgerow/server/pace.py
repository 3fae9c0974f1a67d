"""Whether a model is so quick that the event loop may run it itself, where a thread and back would cost far more.

Decided by what its runs took, in CPU time of the thread that called: waiting for Python's lock is none of the model's.
Only a backend that computes on that thread and waits for nobody may say so (``TensorBackend.inline``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hedgerow.server.backends import Arrays

# Reading a small request and writing its answer takes the loop longer than this.
QUICK_NS: Final = 100_000
# No caller notices less; a run of a quick model may take this long when the processor's caches are another's.
LATE_NS: Final = 1_000_000
# Runs in a row that were quick. Twice as many each time that the loop was held up after all.
PROOF: Final = 20
# As many as it ever takes; and one late run after so many that were not is an interrupt or a neighbour, not the model.
MOST: Final = 20_000


class Pace:
    """Of one loaded version; used from one event loop. What is proven holds for inputs no larger than were quick."""

    def __init__(self) -> None:
        self._wanted = PROOF
        self._row = 0
        self._size = 0

    def quick(self, size: int) -> bool:
        """Whether inputs of ``size`` bytes may be computed on the event loop."""
        return self._row >= self._wanted and size <= self._size

    def ran(self, size: int, cpu_ns: int) -> None:
        """A run on inputs of ``size`` bytes took so long."""
        if size > self._size:
            # A slow one says nothing of smaller ones; a quick one has to be proven as the smaller ones were.
            if cpu_ns <= QUICK_NS:
                self._size, self._row = size, 1
        elif self._row >= self._wanted:
            if cpu_ns > LATE_NS:
                self._wanted = PROOF if self._row - self._wanted >= MOST else min(2 * self._wanted, MOST)
                self._row = 0
            else:
                self._row += 1
        else:
            self._row = self._row + 1 if cpu_ns <= QUICK_NS else 0


def size_of(inputs: Arrays) -> int | None:
    """Bytes of the inputs; None where an array does not tell them (BYTES)."""
    size = 0
    for array in inputs.values():
        if array.dtype.hasobject:
            return None
        size += array.nbytes
    return size
