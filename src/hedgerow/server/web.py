"""How uvicorn serves here: several servers on one loop, bounded protocols, mutual TLS; for every HTTP port of ours."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import uvicorn

from hedgerow.server.config import Address
from hedgerow.server.connection import BoundedProtocol
from hedgerow.server.intake import Reading
from hedgerow.server.tls import PeerProtocol

if TYPE_CHECKING:
    import asyncio
    import socket
    from pathlib import Path

    from starlette.types import ASGIApp

    from hedgerow.server.config import Limits
    from hedgerow.server.tls import ServerTls


@dataclass(frozen=True)
class Listener:
    """A bound socket, what answers there, TLS where it has any, and the path of a Unix socket."""

    socket: socket.socket
    app: ASGIApp
    tls: ServerTls | None = None
    path: Path | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        address, port = self.socket.getsockname()[:2]
        return f"{'http' if self.tls is None else 'https'}://{Address(address, port)}"


class Server(uvicorn.Server):
    """Several of these share a loop, so none may take the signals for itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def uvicorn_config(listener: Listener, limits: Limits, kind: type[PeerProtocol] = PeerProtocol) -> uvicorn.Config:
    """How uvicorn serves ``listener``; ``kind`` is the protocol of one with TLS."""
    tls = listener.tls
    return uvicorn.Config(
        listener.app,
        http=_protocol(BoundedProtocol if tls is None else functools.partial(kind, admission=tls.admission)),
        ws="none",
        ssl_context_factory=None if tls is None else lambda *_: tls.context,
        loop="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level=logging.ERROR,  # it warns of each request that is not HTTP; callers must not fill the journal
        server_header=False,
        proxy_headers=False,  # nobody stands before it, so nobody else may say who calls
        timeout_graceful_shutdown=int(limits.drain_s),
    )


def _protocol(made: Callable[..., BoundedProtocol]) -> type[asyncio.Protocol]:
    """What uvicorn makes for each connection. It only wants something to call."""
    return cast("type[asyncio.Protocol]", lambda **options: Reading(made(**options)))
