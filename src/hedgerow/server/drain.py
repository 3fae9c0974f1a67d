"""Taking no new requests for a while, and always taking them again.

Whoever drained may never come back. So a drain has a limit after which the server ends it by itself, and a server that
starts is never drained: the state is in memory alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

log = logging.getLogger("hedgerow.server")

# An operator who needs more comes back for it.
MAXIMUM_S = 3600


class Drain:
    """Used from one event loop. ``until`` is when it ends by itself, UTC; None while requests are taken."""

    def __init__(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._timer: asyncio.TimerHandle | None = None
        self.until: datetime | None = None

    def begin(self, within_s: float) -> None:
        """Drain for ``within_s`` seconds from now on, whatever was said before."""
        self.end()
        # The loop's clock is monotonic: no change of the wall clock makes a drain longer.
        self._timer = asyncio.get_running_loop().call_later(within_s, self._expire, within_s)
        self.until = self._now() + timedelta(seconds=within_s)
        log.info("drained: no new requests for %g s at the most", within_s)

    def end(self) -> bool:
        """Take requests again; False if they were taken."""
        if self._timer is None:
            return False
        self._timer.cancel()
        self._timer = self.until = None
        log.info("no longer drained")
        return True

    def _expire(self, within_s: float) -> None:
        log.warning("nobody ended the drain within %g s", within_s)
        self.end()
