"""Threads that wait for work: one more is started only where all that there are have something to do.

An executor of the standard library makes a future with a lock and a condition for each call, and starts another thread
where the one that has just done its work does not wait for more yet: under load their number grows without need.

The one that rested last works first: what it computed with is in its core's caches yet. Woken by turns, as those are
who wait for one queue, two threads that answer a single caller take twice as many caches as one.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
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
        self._lock = threading.Lock()
        self._jobs: deque[Job] = deque()
        self._resting: list[queue.SimpleQueue[Job | None]] = []
        self._threads: list[threading.Thread] = []
        self._closed = False

    @property
    def size(self) -> int:
        """How many threads there are."""
        return len(self._threads)

    @property
    def resting(self) -> int:
        """How many of them wait for work."""
        return len(self._resting)

    def give(self, job: Job, busy: int) -> None:
        """Have ``job`` done; ``busy`` is for how many jobs a thread is wanted now, this one included."""
        with self._lock:
            closed = self._closed
            if not closed and self._resting:
                self._resting.pop().put(job)
                return
            if not closed:
                self._jobs.append(job)
                if len(self._threads) < min(busy, self._most):
                    # It holds a process up no longer than its end: whoever must wait for what runs closes the crew.
                    name = f"{self._name}_{len(self._threads)}"
                    thread = threading.Thread(target=self._work, name=name, daemon=True)
                    self._threads.append(thread)
                    thread.start()
        if closed:
            job.drop()

    def close(self) -> None:
        """Wait for what runs; drop the rest."""
        with self._lock:
            self._closed = True
            dropped, self._jobs = self._jobs, deque()
            for each in self._resting:
                each.put(None)
            self._resting.clear()
        for job in dropped:
            job.drop()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        mine: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        while (job := self._next(mine)) is not None:
            if self._closed:
                job.drop()
            else:
                job.run()
            # It has its callers' data, and this thread may rest for a long time.
            del job

    def _next(self, mine: queue.SimpleQueue[Job | None]) -> Job | None:
        """What is to be done now, once there is something; None where the crew is closed."""
        with self._lock:
            if self._jobs:
                return self._jobs.popleft()
            if self._closed:
                return None
            self._resting.append(mine)
        return mine.get()
