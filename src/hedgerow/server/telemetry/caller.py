"""Who asks: under which request id, in which trace, with whose certificate. Adapters set it, recording reads it.

A request id of the caller's is taken only if it can be nothing but an id (a UUID, or 32 hex digits): it is logged, and
people put all sorts of things into headers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hedgerow.server.telemetry import tracecontext

if TYPE_CHECKING:
    from hedgerow.identity.profiles import Peer
    from hedgerow.server.errors import Cause

REQUEST_ID: Final = "x-request-id"
_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}", re.IGNORECASE)


@dataclass(eq=False)
class Caller:
    """One call. ``client`` is the certificate's common name, "" on a door without.

    ``arrived`` is monotonic seconds. ``recorded``: a request of it has reached a model's name and was counted.
    ``cause``: why it was refused before that, where its status alone does not tell.
    """

    request_id: str
    client: str = ""
    parent: tracecontext.Parent | None = None
    arrived: float = field(default_factory=time.monotonic)
    recorded: bool = False
    cause: Cause | None = None
    trace_id: str = ""

    def __post_init__(self) -> None:
        self.trace_id = tracecontext.new_trace_id() if self.parent is None else self.parent.trace_id


CALLER: Final[ContextVar[Caller | None]] = ContextVar("caller", default=None)


def identify(header: Callable[[str], str | None], peer: Peer | None) -> Caller:
    """Who asks, by what ``header`` gives for a name in lower case."""
    given = header(REQUEST_ID)
    request_id = given if given is not None and _ID.fullmatch(given) else tracecontext.new_request_id()
    parent = tracecontext.parse(header(tracecontext.HEADER))
    return Caller(request_id, "" if peer is None else peer.name, parent)


def current() -> Caller:
    """Who asks now; somebody without a name where no adapter said."""
    return CALLER.get() or Caller(tracecontext.new_request_id())
