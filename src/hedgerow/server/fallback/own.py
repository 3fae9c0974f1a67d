"""The device's own answer while it is not decided yet whose answer the caller gets. It keeps its place in the queue."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hedgerow.server.pieces import Piece


class OwnAnswer:
    """Begun at once; its first pieces are awaited beside whatever else is tried."""

    def __init__(self, pieces: AsyncGenerator[list[Piece], None]) -> None:
        self._pieces = pieces
        self._first = asyncio.ensure_future(anext(pieces))
        self._held: list[list[Piece]] = []

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

    async def weigh(self, tokens: int) -> list[float]:
        """The logarithms of the probabilities of its first ``tokens`` tokens, or all; none where nobody tells them.

        Raises:
            ServingError: its own.
        """
        await asyncio.wait((self._first,))
        self._held.append(self._first.result())
        while True:
            found = [said.logprob for batch in self._held for piece in batch for said in piece.said]
            last = self._held[-1][-1]
            if not found or len(found) >= tokens or last.finish is not None:
                return found[:tokens]
            self._held.append(await anext(self._pieces))

    async def all(self) -> AsyncGenerator[list[Piece], None]:
        """Its pieces from the first on, without probabilities: whoever asks for these gets no other's answer."""
        await asyncio.wait((self._first,))
        for batch in self._held or [self._first.result()]:
            yield _plain(batch)
        async for batch in self._pieces:
            yield _plain(batch)

    async def close(self) -> None:
        """Let go of it; what runs ends before its next token."""
        self._first.cancel()
        await asyncio.wait((self._first,))
        if not self._first.cancelled():
            self._first.exception()  # seen, so that nobody warns of it
        await self._pieces.aclose()


def _plain(batch: list[Piece]) -> list[Piece]:
    return [dataclasses.replace(piece, said=()) if piece.said else piece for piece in batch]
