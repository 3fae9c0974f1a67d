"""OpenAI-compatible routes: ``/v1/models``, ``/v1/chat/completions`` and ``/v1/completions``, streamed or whole."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from hedgerow.server.errors import NotFound, ServingError
from hedgerow.server.protocols import openai_answers as answers
from hedgerow.server.protocols.http import (
    EventStream,
    body,
    decode,
    device_only,
    json_response,
    look,
    retry_headers,
    timeout_s,
    unless_gone,
)
from hedgerow.server.protocols.openai_requests import ChatRequest, CompletionRequest

if TYPE_CHECKING:
    from hedgerow.server.config import Limits
    from hedgerow.server.dataplane import DataPlane
    from hedgerow.server.models import Served

PROTOCOL = "openai"
_METHODS = {"chat/completions": "POST", "completions": "POST", "models": "GET"}


def routes(plane: DataPlane, limits: Limits) -> list[Route]:
    async def models(_: Request) -> Response:
        listed: list[dict[str, Any]] = []
        for name in plane.names:
            # Also while the server is drained: what is served does not change by that.
            model = plane.serving(name)
            listed += ([_head(name, 0)] if plane.on_demand else []) if model is None else _models(model)
        return json_response({"object": "list", "data": listed})

    async def one_model(request: Request) -> Response:
        asked = request.path_params["model"]
        name, _ = _parted(plane, asked)
        await plane.bring(name)
        for model in _models(plane.served(name)):
            if model["id"] == asked:
                return json_response(model)
        raise NotFound(f"model '{asked}' is not served here")

    async def chat(request: Request) -> Response:
        look(plane)
        asked = decode(await body(request, limit=limits.json_body_bytes), ChatRequest)
        return await answer(request, answers.CHAT, asked)

    async def completion(request: Request) -> Response:
        look(plane)
        asked = decode(await body(request, limit=limits.json_body_bytes), CompletionRequest)
        return await answer(request, answers.COMPLETION, asked)

    async def answer(request: Request, kind: answers.Kind, asked: ChatRequest | CompletionRequest) -> Response:
        name, adapter = _parted(plane, asked.model)
        wanted = asked.text_request(limits, timeout_s(request))
        wanted = dataclasses.replace(wanted, adapter=adapter, device_only=device_only(request))
        pieces = plane.generate(name, wanted, protocol=PROTOCOL)
        if not asked.stream:
            return json_response(await unless_gone(request, answers.whole(kind, asked.model, pieces)))
        # The first piece is awaited before the answer begins: until then an error still has a status code.
        first = await unless_gone(request, anext(pieces))
        events = answers.events(kind, asked.model, first, pieces, usage=asked.with_usage)
        return _Streamed(EventStream(events))

    return [
        Route("/v1/models", _guarded(models)),
        Route("/v1/models/{model}", _guarded(one_model)),
        Route("/v1/chat/completions", _guarded(chat), methods=["POST"]),
        Route("/v1/completions", _guarded(completion), methods=["POST"]),
        # Behind all others: clients read errors in OpenAI's shape, also that of a route which is not there.
        Route("/v1/{path:path}", _unknown, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ]


async def _unknown(request: Request) -> Response:
    path = request.path_params["path"]
    method = _METHODS.get(path, "GET" if path.startswith("models/") else None)
    if method is None:
        error = {"message": f"/v1/{path} is not served here; served: /v1/{', /v1/'.join(_METHODS)}", "code": None}
        return json_response({"error": {**error, "type": "invalid_request_error", "param": None}}, status=404)
    error = {"message": f"/v1/{path} takes {method}, not {request.method}", "code": None}
    response = json_response({"error": {**error, "type": "invalid_request_error", "param": None}}, status=405)
    response.headers["allow"] = method
    return response


def _guarded(handler: Any) -> Any:
    async def endpoint(request: Request) -> Response:
        try:
            answered: Response = await handler(request)
        except ServingError as error:
            answered = json_response(answers.error_body(error), status=error.status)
            answered.headers.update(retry_headers(error))
        return answered

    return endpoint


class _Streamed(Response):
    """Starlette wants a Response; the stream answers for itself."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__()
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._stream(scope, receive, send)


def _parted(plane: DataPlane, model: str) -> tuple[str, str | None]:
    """A model's name and the adapter behind it, if any: ``assistant:formal``."""
    name, _, adapter = model.rpartition(":")
    return (model, None) if model in plane.names or not name else (name, adapter)


def _head(name: str, created: int) -> dict[str, Any]:
    """A model as lists have it; ``created`` 0: not loaded yet."""
    return {"id": name, "object": "model", "created": created, "owned_by": "hedgerow"}


def _models(served: Served) -> list[dict[str, Any]]:
    """The model, and each of its adapters as a model of its own."""
    base = _head(served.name, int(served.since.timestamp()))
    adapters = getattr(served.backend, "adapters", ())
    return [base, *({**base, "id": f"{served.name}:{adapter}", "parent": served.name} for adapter in adapters)]
