"""A bounded pool of threads for work that blocks: what does not fit is refused, not collected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hedgerow.server.errors import Busy

T = TypeVar("T")


class Workers:
    """``threads`` at once, ``queue`` more waiting. Used from one event loop."""

    def __init__(self, *, threads: int, queue: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="infer")
        self._threads = threads
        self._limit = threads + queue
        self._inside = 0

    @property
    def queue_depth(self) -> int:
        """Calls that wait for a thread."""
        return max(0, self._inside - self._threads)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of ``work``, computed on a thread.

        Raises:
            Busy: too many calls wait already.
        """
        if self._inside >= self._limit:
            raise Busy(f"{self.queue_depth} requests wait already")
        self._inside += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        # When the thread is done, not when the caller is: a caller who left has not freed the thread.
        future.add_done_callback(self._left)
        return await asyncio.shield(future)

    def close(self) -> None:
        """Wait for what runs; what waits is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _left(self, future: asyncio.Future[T]) -> None:
        self._inside -= 1
        if not future.cancelled():
            future.exception()  # a caller who left does not ask for it
