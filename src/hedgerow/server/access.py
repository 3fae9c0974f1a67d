"""Which right a route asks for (docs/contracts.md, "Certificate profiles"), enforced before any routing.

What no row names asks for ``CONTROL``, so a route that somebody adds later is closed to all but operators until a row
opens it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hedgerow.identity.profiles import Peer, Right
from hedgerow.server.protocols.http import json_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_EITHER: Final = frozenset({Right.OBSERVE, Right.INFER})
# Any one of the rights will do. The first row whose path is the request's or a parent of it counts.
_ROWS: Final[tuple[tuple[str, frozenset[Right]], ...]] = (
    ("/health/live", _EITHER),
    ("/health/ready", _EITHER),
    ("/health/report", frozenset({Right.OBSERVE})),
    ("/metrics", frozenset({Right.OBSERVE})),
    ("/openapi.json", _EITHER),
    ("/v2/health", _EITHER),
    ("/v2/repository", frozenset({Right.CONTROL})),
    ("/v2", frozenset({Right.INFER})),
    ("/v1", frozenset({Right.INFER})),
)
PEER: Final = "hedgerow.peer"
"""Key of the verified peer in the ASGI scope (``tls`` puts it there)."""


def rights_for(path: str) -> frozenset[Right]:
    """The rights of which a caller of ``path`` needs one."""
    for prefix, rights in _ROWS:
        if path == prefix or path.startswith(f"{prefix}/"):
            return rights
    return frozenset({Right.CONTROL})


def allowed(peer: Peer | None, path: str, *, fleet: str, site: str) -> bool:
    """Whether ``peer`` may call ``path`` on a server of ``fleet`` and ``site``."""
    if peer is None or peer.fleet != fleet:
        return False
    return any(peer.may(right, site=site) for right in rights_for(path))


class ByProfile:
    """Middleware: answers 403 to a caller whose certificate does not allow the route."""

    def __init__(self, app: ASGIApp, *, fleet: str, site: str) -> None:
        self._app = app
        self._fleet = fleet
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            peer = scope.get(PEER)
            if not allowed(peer, scope["path"], fleet=self._fleet, site=self._site):
                who = "no certificate of this fleet" if peer is None else f"profile {peer.profile.value}"
                refusal = json_response({"error": f"{who} may not call {scope['path']}"}, status=403)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)
