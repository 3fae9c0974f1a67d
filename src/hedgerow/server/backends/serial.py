"""Generations on a runtime that has one context: one at a time, the others wait for their turn without blocking."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

# How long a turn is waited for within ``read``; those that run meanwhile are on other threads, or in the same round.
_PATIENCE_S = 0.02


class Lease:
    """Who holds it has the runtime for himself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def take(self, patience_s: float) -> bool:
        """Whether it is the caller's now."""
        return self._lock.acquire(timeout=patience_s)

    def give_back(self) -> None:
        """Let the next one have it."""
        self._lock.release()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Wait for it as long as it takes."""
        with self._lock:
            yield


class Stream(Protocol):
    """Texts of a generation that runs; ``prompt_tokens`` is known once the first text is."""

    prompt_tokens: int
    truncated: bool

    def next(self) -> str | None:
        """The next token's text; None: it has ended."""

    def close(self) -> None:
        """Stop it."""


class SerialDecoding:
    """A ``Decoding`` that begins when the lease is free. ``start`` begins the runtime's own generation."""

    def __init__(self, lease: Lease, start: Callable[[], Stream]) -> None:
        self._lease = lease
        self._start = start
        self._stream: Stream | None = None
        self._held = False
        self.prompt_tokens = 0
        self.truncated = False

    def read(self) -> bool:
        self._held = self._lease.take(_PATIENCE_S)
        if self._held:
            self._stream = self._start()
        return self._held

    def step(self) -> str | None:
        if self._stream is None:
            raise RuntimeError("a generation makes tokens once its prompt is read")
        text = self._stream.next()
        self.prompt_tokens, self.truncated = self._stream.prompt_tokens, self._stream.truncated
        return text

    def close(self) -> None:
        try:
            if self._stream is not None:
                self._stream.close()
        finally:
            if self._held:
                self._lease.give_back()
                self._held = False
