"""A bounded queue and the thread behind it, for what may wait for a network or a disk.

Invariants:

- ``offer`` never blocks: what does not fit is dropped, and the one who offers learns of it.
- What matters more may take the whole queue, what matters less half of it.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Batches(Generic[T]):
    """Hands on what was offered, ``most`` at a time, at the latest ``interval_s`` after the first of them came.

    ``take`` runs on the thread, and is called with nothing when ``idle_s`` passed without any.
    """

    def __init__(
        self,
        name: str,
        take: Callable[[Sequence[T]], None],
        *,
        room: int,
        most: int,
        interval_s: float,
        idle_s: float | None = None,
    ) -> None:
        self._take = take
        self._room = room
        self._most = most
        self._interval_s = interval_s
        self._idle_s = idle_s
        self._waiting: collections.deque[T] = collections.deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def offer(self, item: T, *, important: bool) -> bool:
        """Put ``item`` in; False where there is no room for it."""
        room = self._room if important else max(1, self._room // 2)
        with self._changed:
            if self._closing or len(self._waiting) >= room:
                return False
            self._waiting.append(item)
            if len(self._waiting) in {1, self._most}:
                self._changed.notify()
        return True

    def close(self, timeout_s: float) -> bool:
        """Hand on what waits, and end the thread; False where that takes longer than ``timeout_s``."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing, self._idle_s)
                if self._waiting:
                    self._changed.wait_for(lambda: len(self._waiting) >= self._most or self._closing, self._interval_s)
                batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                closing = self._closing
            if batch or not closing:
                self._take(batch)
            if closing and not self._waiting:
                return
