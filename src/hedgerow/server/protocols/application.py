"""The routes of one listener as an ASGI application, with errors of ours as JSON.

Starlette's own application does the same in four layers that every message of every answer goes through; this is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Router

from hedgerow.server.errors import ServingError
from hedgerow.server.protocols.http import json_response

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import Message, Receive, Scope, Send


class Application:
    """Answers what no route takes, and what a route raises."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        # Redirected slashes would send callers to whatever host their request names.
        self._router = Router(routes, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        # With it, Starlette's router raises what it would else answer in words of its own.
        scope["app"] = self
        try:
            await self._router.app(scope, receive, noted)
        except (HTTPException, ServingError) as error:
            if started:
                raise RuntimeError("an error was raised after its answer had begun") from error
            await _answer(scope, error)(scope, receive, send)
        except Exception as error:
            if not started:
                await _answer(scope, error)(scope, receive, send)
            raise  # uvicorn logs it


def _answer(scope: Scope, error: Exception) -> Response:
    if isinstance(error, ServingError):
        return json_response({"error": error.text}, status=error.status)
    if isinstance(error, HTTPException):
        response = json_response(
            {"error": f"{scope['method']} {scope['path']}: {error.detail}"}, status=error.status_code
        )
        response.headers.update(error.headers or {})
        return response
    # What it says may be another caller's data.
    text = f"the server failed: {type(error).__name__}"
    return json_response({"error": text}, status=HTTPStatus.INTERNAL_SERVER_ERROR)
