"""Threads that wait for work: one more is started only where all that there are have something to do.

An executor of the standard library makes a future with a lock and a condition for each call, and starts another thread
where the one that has just done its work does not wait for more yet: under load their number grows without need.
"""

from __future__ import annotations

import queue
import threading
from typing import Protocol


class Job(Protocol):
    """Work for one thread. Neither may raise."""

    def run(self) -> None:
        """Do it; on a thread."""

    def drop(self) -> None:
        """It will never be done: the crew is closed."""


class Crew:
    """``most`` threads at most. Given work from one thread, closed from any."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False

    @property
    def size(self) -> int:
        """How many threads there are."""
        return len(self._threads)

    def give(self, job: Job, busy: int) -> None:
        """Have ``job`` done; ``busy`` is for how many jobs a thread is wanted now, this one included."""
        if self._closed:
            job.drop()
            return
        if len(self._threads) < min(busy, self._most):
            # It holds a process up no longer than its end: whoever must wait for what runs closes the crew.
            thread = threading.Thread(target=self._work, name=f"{self._name}_{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put(job)

    def close(self) -> None:
        """Wait for what runs; drop the rest."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._closed:
                job.drop()
            else:
                job.run()
