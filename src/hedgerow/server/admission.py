"""Who is let in, and who has to leave: callers whose certificate was revoked.

Every connection (or call, where a library keeps the connection to itself) says with which certificates it came. A
revoked one is ended when it comes, or within ``LOOK_S`` of the list that names it; the others never notice.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from hedgerow.identity.crlfile import CrlFile
from hedgerow.identity.revoked import Chain, certificates

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("hedgerow.server")
LOOK_S: Final = 10.0
"""Seconds between two looks at the file."""


class Admission:
    """The lists of ``path`` applied to all who are here. To be used on one event loop.

    ``anchors`` are the authorities that callers are verified against, which a chain may leave out.
    """

    def __init__(self, path: Path) -> None:
        self.file = CrlFile(path)
        self.anchors: Chain = ()
        self._here: dict[Callable[[], object], Chain] = {}
        self._told: str | None = None
        self.file.look()
        self._tell()

    def admits(self, chain: Chain) -> bool:
        """Whether none of ``chain`` was revoked."""
        return self.file.lists.revoked(chain, self.anchors) is None

    def enter(self, chain: Chain, end: Callable[[], object]) -> bool:
        """Remember who came with ``chain``; ``end`` is called once it is revoked. False: it is already."""
        if not self.admits(chain):
            return False
        self._here[end] = chain
        return True

    def leave(self, end: Callable[[], object]) -> None:
        """Forget one who went."""
        self._here.pop(end, None)

    def look(self) -> int:
        """Read the file if it changed, and end who was revoked; how many that were."""
        changed = self.file.look()
        self._tell()
        if not changed:
            return 0
        ending = [end for end, chain in self._here.items() if not self.admits(chain)]
        for end in ending:
            self._here.pop(end, None)
            end()
        log.info("%s: read, %d lists; %d connections ended", self.file.path, len(self.file.lists.lists), len(ending))
        return len(ending)

    async def watch(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def _tell(self) -> None:
        """Say once what is wrong with the file."""
        since = self.file.outdated(datetime.now(UTC))
        late = None if since is None else f"{self.file.path} is out of date since {since:%Y-%m-%d %H:%M} UTC"
        problem = self.file.problem or late
        if problem is not None and problem != self._told:
            log.warning("revoked certificates: %s", problem)
        self._told = problem


@functools.lru_cache(maxsize=256)
def chain_of(pems: tuple[bytes, ...]) -> Chain:
    """Certificates that a library shows as PEM, several in one text or not; each once, in their order."""
    return tuple(dict.fromkeys(each for pem in pems for each in certificates(pem)))
