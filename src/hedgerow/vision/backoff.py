"""How long to wait before the next try. No IO."""

from __future__ import annotations


class Backoff:
    """Seconds that double from ``first_s`` up to ``longest_s``, until something works (``reset``)."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def next_s(self) -> float:
        """The next wait."""
        wait_s, self._next_s = self._next_s, min(2 * self._next_s, self._longest_s)
        return wait_s

    def reset(self) -> None:
        """It works again."""
        self._next_s = self._first_s
