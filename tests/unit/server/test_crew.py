"""Threads that wait for work."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import server_support as support

from hedgerow.server.crew import Crew


class Job:
    """Runs ``what``; ``came`` is how it ended."""

    def __init__(self, what: Callable[[], object] = lambda: None) -> None:
        self._what = what
        self.came = ""
        self.ended = threading.Event()

    def run(self) -> None:
        self._what()
        self.came = "done"
        self.ended.set()

    def drop(self) -> None:
        self.came = "dropped"


def test_no_more_threads_than_there_is_work_at_once() -> None:
    """However many jobs come one behind the other, and however quickly: the thread of one takes the next."""
    crew = Crew(8, "test")
    for _ in range(200):
        job = Job()
        crew.give(job, busy=1)
        assert job.ended.wait(support.PATIENCE_S)
    assert crew.size == 1
    gate = threading.Barrier(3, timeout=support.PATIENCE_S)
    together = [Job(gate.wait) for _ in range(3)]
    for busy, job in enumerate(together, 1):
        crew.give(job, busy=busy)
    assert all(job.ended.wait(support.PATIENCE_S) for job in together)
    assert crew.size == 3
    crew.close()


def test_who_rested_last_works_first() -> None:
    """Two threads that took turns at one caller's requests would have its data in two cores' caches."""
    crew = Crew(8, "test")
    gate = threading.Barrier(2, timeout=support.PATIENCE_S)
    together = [Job(gate.wait) for _ in range(2)]
    for busy, job in enumerate(together, 1):
        crew.give(job, busy=busy)
    assert all(job.ended.wait(support.PATIENCE_S) for job in together)
    support.wait(lambda: crew.resting == 2)
    names = []
    for _ in range(20):
        job = Job(lambda: names.append(threading.current_thread().name))
        crew.give(job, busy=1)
        assert job.ended.wait(support.PATIENCE_S)
        support.wait(lambda: crew.resting == 2)
    assert len(set(names)) == 1
    crew.close()


def test_a_job_is_not_kept_while_its_thread_rests() -> None:
    """It has its callers' data."""
    crew = Crew(1, "test")
    job = Job()
    gone = weakref.ref(job)
    crew.give(job, busy=1)
    assert job.ended.wait(support.PATIENCE_S)
    del job
    support.wait(lambda: gone() is None)
    crew.close()


def test_closing_waits_for_what_runs_and_drops_the_rest() -> None:
    crew = Crew(1, "test")
    begun, go = threading.Event(), threading.Event()
    running = Job(lambda: (begun.set(), go.wait(support.PATIENCE_S)))
    waiting, late = Job(), Job()
    crew.give(running, busy=1)
    crew.give(waiting, busy=2)
    assert begun.wait(support.PATIENCE_S)
    closing = threading.Thread(target=crew.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    go.set()
    closing.join(support.PATIENCE_S)
    crew.give(late, busy=1)
    assert (running.came, waiting.came, late.came, crew.size) == ("done", "dropped", "dropped", 1)
