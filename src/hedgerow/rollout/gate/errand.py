"""Something slow that can be left behind: an operator's emergency stop does not wait for a host's answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")

ASK_EVERY_S = 0.5
"""Between two questions whether to stop."""


class Ended(Exception):
    """The errand was left behind; the text says why."""


class _Errand(threading.Thread, Generic[Result]):
    def __init__(self, work: Callable[[], Result]) -> None:
        # A daemon: a request that hangs until its time limit must not keep the process from ending.
        super().__init__(name="gate-errand", daemon=True)
        self._work = work
        self.over = threading.Event()
        self.result: Result | None = None
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised again where the result is wanted
            self.failure = error
        finally:
            self.over.set()


def run(work: Callable[[], Result], stop: Callable[[], str | None]) -> Result:
    """Return what ``work`` returns, asking ``stop`` meanwhile.

    Raises:
        Ended: ``stop`` gave a reason before ``work`` was done; ``work`` goes on by itself, and nobody listens.
    """
    errand = _Errand(work)
    errand.start()
    while not errand.over.wait(ASK_EVERY_S):
        reason = stop()
        if reason is not None:
            raise Ended(reason)
    if errand.failure is not None:
        raise errand.failure
    return errand.result  # type: ignore[return-value] # set where there is no failure
