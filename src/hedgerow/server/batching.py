"""Dynamic batching of tensor requests: which of those that wait run together now. No clock, no IO.

Invariants:

- The most urgent request goes first, the oldest of equals. Others may join it; nobody is held back for one who waits.
- Only requests of one loaded version, of the same inputs with the same types and shapes behind the first axis, and of
  the same wanted outputs share a batch, and only where the model leaves its first axis free on every side.
- A free first axis alone says nothing of what it means (a sequence's steps mix when batched): batching is off until the
  model's owner turns it on.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Hashable

    from hedgerow.server.backends import Arrays, TensorBackend

# The priority of a request that names none; 1 is the most urgent.
NORMAL = 2


@dataclass(frozen=True)
class Batching:
    """Up to ``max_batch`` rows run together; the first of them waits ``max_delay_s`` at the most for the others."""

    max_batch: int = 1
    max_delay_s: float = 0.0


NONE = Batching()


@dataclass(frozen=True)
class Ticket:
    """A request as the decision sees it; times are seconds of one monotonic clock.

    ``number`` counts arrivals. ``key`` is equal for those that may share a batch; None is always alone.
    """

    number: int
    arrived: float
    priority: int = NORMAL
    deadline: float | None = None
    rows: int = 1
    key: Hashable | None = None
    batching: Batching = NONE

    @property
    def order(self) -> tuple[int, int]:
        """The more urgent first, then the older."""
        return (self.priority, self.number)


_order = operator.attrgetter("order")


@dataclass(frozen=True)
class Decision:
    """What to run now as one batch; else (nothing to run) the time at which to decide again, None for never."""

    run: tuple[Ticket, ...] = ()
    again_at: float | None = None


def decide(waiting: Sequence[Ticket], now: float) -> Decision:
    """The batch that runs next on a free thread."""
    if waiting and (first := min(waiting, key=_order)).key is None:
        return Decision((first,))
    again: float | None = None
    seen: set[Hashable] = set()
    for head in sorted(waiting, key=_order):
        if head.key is None or head.batching.max_batch <= 1:
            return Decision((head,))
        if head.key in seen:
            continue
        seen.add(head.key)
        batch, full = _mates(head, waiting)
        due = _due(batch)
        if full or now >= due:
            return Decision(batch)
        again = due if again is None else min(again, due)
    return Decision(again_at=again)


def _mates(head: Ticket, waiting: Sequence[Ticket]) -> tuple[tuple[Ticket, ...], bool]:
    """``head`` and those who may join it, and whether nobody else could."""
    batch, rows = [head], head.rows
    for ticket in sorted(waiting, key=_order):
        if ticket is head or ticket.key != head.key:
            continue
        if rows + ticket.rows > head.batching.max_batch:
            return tuple(batch), True
        batch.append(ticket)
        rows += ticket.rows
    return tuple(batch), rows >= head.batching.max_batch


def _due(batch: Sequence[Ticket]) -> float:
    """When the batch runs whether it is full or not: the wait of its oldest is over, or half of a deadline's time."""
    waits = [ticket.arrived + ticket.batching.max_delay_s for ticket in batch]
    halves = [(ticket.arrived + ticket.deadline) / 2 for ticket in batch if ticket.deadline is not None]
    return min(waits + halves)


def key_of(backend: TensorBackend, owner: int, inputs: Arrays, outputs: Sequence[str]) -> tuple[Hashable | None, int]:
    """What a request must share with others to run with them (None: it runs alone), and its rows.

    ``owner`` is the identity of the loaded version.
    """
    specs = (*backend.inputs, *backend.outputs)
    if not inputs or not all(spec.shape and spec.shape[0] == -1 for spec in specs):
        return None, 1
    rows = {array.shape[0] for array in inputs.values()}
    if len(rows) != 1 or 0 in rows:
        return None, 1
    sides = tuple(sorted((name, array.dtype.str, array.shape[1:]) for name, array in inputs.items()))
    return (owner, sides, tuple(outputs)), rows.pop()


def join(inputs: Sequence[Arrays]) -> Arrays:
    """One request's inputs of several; rows in their order."""
    return {name: np.concatenate([each[name] for each in inputs]) for name in inputs[0]}


def split(outputs: Arrays, rows: Sequence[int]) -> list[Arrays] | None:
    """Each request's own outputs; None where an output does not have the batch's rows, so that it cannot be told."""
    if any(array.ndim == 0 or array.shape[0] != sum(rows) for array in outputs.values()):
        return None
    ends = np.cumsum(rows)[:-1]
    # Copies: an answer that is kept must not keep the whole batch's memory.
    parts = {name: [part.copy() for part in np.split(array, ends)] for name, array in outputs.items()}
    return [{name: parts[name][index] for name in outputs} for index in range(len(rows))]
