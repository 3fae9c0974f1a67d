"""The device's own answer while it is not decided yet whose answer the caller gets. It keeps its place in the queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hedgerow.server.pieces import Piece


class OwnAnswer:
    """Begun at once; its first pieces are awaited beside whatever else is tried."""

    def __init__(self, pieces: AsyncGenerator[list[Piece], None]) -> None:
        self._pieces = pieces
        self._first = asyncio.ensure_future(anext(pieces))

    async def begins(self, within_s: float | None, waits: Callable[[], bool]) -> bool:
        """Wait for the first pieces; False where it still ``waits`` for its turn after ``within_s`` seconds.

        Raises:
            ServingError: its own.
        """
        await asyncio.wait((self._first,), timeout=within_s)
        if not self._first.done() and waits():
            return False
        await asyncio.wait((self._first,))
        self._first.result()
        return True

    async def all(self) -> AsyncGenerator[list[Piece], None]:
        """Its pieces from the first on."""
        await asyncio.wait((self._first,))
        yield self._first.result()
        async for batch in self._pieces:
            yield batch

    async def close(self) -> None:
        """Let go of it; what runs ends before its next token."""
        self._first.cancel()
        await asyncio.wait((self._first,))
        if not self._first.cancelled():
            self._first.exception()  # seen, so that nobody warns of it
        await self._pieces.aclose()
