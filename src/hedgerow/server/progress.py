"""When a request's work began: told by who computes it, read by who records it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class Progress:
    """``began`` is monotonic seconds, None while it waits. ``rows`` of the batch that it was computed in."""

    began: float | None = None
    rows: int = 0
