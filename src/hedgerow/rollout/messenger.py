"""Messages of a rollout, sent beside its work and journaled by the process that has the lease.

A channel may take as long as its attempts allow; a wait must hear an emergency stop within a second all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from types import TracebackType
from typing import Self

from hedgerow.rollout import notify, report
from hedgerow.rollout.events import Notified
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.policy.notify import About


class Messenger:
    """Sends in a thread; what came of it is journaled by ``collect``, or when it is left."""

    def __init__(self, journal: Journal, say: Callable[[str], None]) -> None:
        self._journal = journal
        self._say = say
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="messenger")
        self._sent: list[Future[list[Notified]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=error is None)
        if error is None:
            self.collect()

    def tell(self, about: About) -> None:
        """Begin to tell everybody who wants to know."""
        state = self._journal.read()
        if any(about in channel.on for channel in state.plan.policy.notify):
            # The state goes on while the message is on its way; what it says of single hosts is not in a message.
            policy, name = state.plan.policy, self._journal.folder.name
            self._sent.append(self._pool.submit(notify.send, policy, copy(state), about, rollout=name))

    def collect(self) -> None:
        """Journal what has been answered by now."""
        for future in [each for each in self._sent if each.done()]:
            self._sent.remove(future)
            for told in future.result():
                self._journal.record(told)
                if told.failed is not None:
                    self._say(report.line(told))
