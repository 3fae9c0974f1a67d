"""HTTP's door: who asks is read from the head, the request id goes back, and refusals that no model saw are told of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hedgerow.server.access import PEER
from hedgerow.server.replying import GIVEN, HEADS
from hedgerow.server.telemetry.caller import CALLER, REQUEST_ID, Caller, identify

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FAILED: Final = 400
_FORBIDDEN: Final = 403
_PROTOCOLS: Final = (("/v1", "openai"), ("/v2", "oip"))
OTHER: Final = "http"
_REQUEST_ID: Final = REQUEST_ID.encode("ascii")

Refused = Callable[[Caller, str, int], None]
"""Told of a call that ended in an error before any model's name was reached: who, protocol, status."""


class Door:
    """ASGI middleware, outside of all others."""

    def __init__(self, app: ASGIApp, refused: Refused) -> None:
        self._app = app
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = scope[HEADS] = dict(reversed(scope["headers"]))

        def header(name: str) -> str | None:
            value = headers.get(name.encode("ascii"))
            return None if value is None else value.decode("latin-1")

        caller = identify(header, scope.get(PEER))
        given = scope[GIVEN] = (_REQUEST_ID, caller.request_id.encode("ascii"))

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), given]
                if _tells(scope["method"], message["status"]) and not caller.recorded:
                    self._refused(caller, _protocol(scope["path"]), message["status"])
            await send(message)

        token = CALLER.set(caller)
        try:
            await self._app(scope, receive, answer)
        finally:
            CALLER.reset(token)


def _tells(method: str, status: int) -> bool:
    # A probe that is told "not ready" is answered, not refused; whoever may not read is refused all the same.
    return status >= _FAILED and (method not in {"GET", "HEAD"} or status == _FORBIDDEN)


def _protocol(path: str) -> str:
    return next((name for prefix, name in _PROTOCOLS if path == prefix or path.startswith(f"{prefix}/")), OTHER)
