"""What the REST interface is, for programs: ``/openapi.json`` (OpenAPI 3.1), made of the routes and what they read.

A route is described by its row here and by the structs that its adapter decodes; a test walks all routes, so one
without a row does not get far. The control socket's routes are no part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from hedgerow import __version__
from hedgerow.server.protocols import oip_generate, oip_infer, oip_repository, openai_requests
from hedgerow.server.protocols.http import JSON

PATH: Final = "/openapi.json"
_TEXT: Final = "text/plain"
_ANY: Final[dict[str, Any]] = {}


@dataclass(frozen=True)
class Operation:
    """A row: what it does, the struct of its body, the kinds of its answer, and statuses of its own.

    ``binary``: bytes may follow the JSON. Every operation may also answer with what ``_ALWAYS`` has.
    """

    summary: str
    body: type | None = None
    optional: bool = False
    binary: bool = False
    answers: tuple[str, ...] = (JSON,)
    errors: dict[int, str] = field(default_factory=dict)


_REFUSED: Final = {400: "the request is wrong; the text says where"}
_ABSENT: Final = {404: "no such model or version"}
_WORK: Final = {
    **_REFUSED,
    **_ABSENT,
    408: "the body came too slowly",
    413: "the body is too large",
    415: "the body is compressed in an unknown way",
    429: "too many requests wait; come back after Retry-After seconds",
    500: "the runtime failed",
    503: "drained or stopping; come back after Retry-After seconds",
    504: "the time is over within which the answer was wanted",
}
_ALWAYS: Final = {403: "the caller's certificate does not allow it", 405: "another method is wanted"}


def _of_models(action: str, operation: Operation, method: str = "get") -> dict[tuple[str, str], Operation]:
    paths = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    return {(method, path + action): operation for path in paths}


OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("get", PATH): Operation("This document"),
    ("get", "/health/live"): Operation("Whether the process answers", answers=(_TEXT,)),
    ("get", "/health/ready"): Operation(
        "Whether requests are taken", answers=(_TEXT,), errors={503: "no model is in service, or drained"}
    ),
    ("get", "/health/report"): Operation("The device's health with reasons"),
    ("get", "/metrics"): Operation("Metrics as Prometheus reads them", answers=(_TEXT,)),
    ("get", "/v1/models"): Operation("Models in service"),
    ("get", "/v1/models/{model}"): Operation("One model", errors=_ABSENT),
    ("post", "/v1/chat/completions"): Operation(
        "Answer a conversation, whole or streamed",
        body=openai_requests.ChatRequest,
        answers=(JSON, "text/event-stream"),
        errors=_WORK,
    ),
    ("post", "/v1/completions"): Operation(
        "Go on from a text, whole or streamed",
        body=openai_requests.CompletionRequest,
        answers=(JSON, "text/event-stream"),
        errors=_WORK,
    ),
    ("get", "/v2"): Operation("Name, version and extensions of the server"),
    ("get", "/v2/health/live"): Operation("Whether the process answers", answers=(_TEXT,)),
    ("get", "/v2/health/ready"): Operation(
        "Whether requests are taken", answers=(_TEXT,), errors={503: "no model is in service, or drained"}
    ),
    **_of_models("", Operation("What a model takes and gives", errors=_ABSENT)),
    **_of_models("/config", Operation("A model's configuration", errors=_ABSENT)),
    **_of_models(
        "/ready",
        Operation("Whether the model takes requests", answers=(_TEXT,), errors={**_ABSENT, 503: "not now"}),
    ),
    **_of_models(
        "/infer",
        Operation(
            "Run a model on tensors, as JSON or as bytes behind it",
            body=oip_infer.Body,
            binary=True,
            answers=(JSON, "application/octet-stream"),
            errors=_WORK,
        ),
        method="post",
    ),
    **_of_models("/generate", Operation("Go on from a text", body=oip_generate.Generate, errors=_WORK), method="post"),
    **_of_models(
        "/generate_stream",
        Operation("The same as it comes", body=oip_generate.Generate, answers=("text/event-stream",), errors=_WORK),
        method="post",
    ),
    ("get", "/v2/models/stats"): Operation("Statistics of every model"),
    **_of_models("/stats", Operation("Statistics of a model", errors=_ABSENT)),
    ("post", "/v2/repository/index"): Operation(
        "Models of the repository and their states", body=oip_repository.IndexRequest, optional=True, errors=_REFUSED
    ),
    ("post", "/v2/repository/models/{model}/load"): Operation(
        "Load a model, or load it again", body=oip_repository.LoadRequest, optional=True, answers=(), errors=_WORK
    ),
    ("post", "/v2/repository/models/{model}/unload"): Operation(
        "Unload a model", body=oip_repository.UnloadRequest, optional=True, answers=(), errors=_WORK
    ),
}
"""(method, path) → what it does."""


def published(routes: Sequence[BaseRoute]) -> Route:
    """The route that shows the document of ``routes`` and of itself."""

    async def show(_: Request) -> Response:
        return Response(content, media_type=JSON)

    own = Route(PATH, show)
    content = msgspec.json.encode(document([*routes, own]))
    return own


def operations(routes: Iterable[BaseRoute]) -> list[tuple[str, str]]:
    """(method, path) of each route, but for those that only say what is not there."""
    return [
        (method.lower(), route.path)
        for route in routes
        if isinstance(route, Route) and ":path}" not in route.path
        for method in sorted(route.methods or ())
        if method != "HEAD"
    ]


def document(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """OpenAPI of the routes that have a row."""
    served = [each for each in operations(routes) if each in OPERATIONS]
    bodies = {row.body for row in OPERATIONS.values() if row.body is not None}
    schemas, components = msgspec.json.schema_components(
        sorted(bodies, key=lambda each: each.__qualname__), ref_template="#/components/schemas/{name}"
    )
    named = dict(zip(sorted(bodies, key=lambda each: each.__qualname__), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for method, path in served:
        paths.setdefault(path, {})[method] = _described(method, path, OPERATIONS[method, path], named)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hedgerow inference server",
            "version": __version__,
            "description": "Open Inference Protocol v2 and OpenAI-compatible text generation. A field that is not "
            "supported is refused by name.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": {**components, "Error": _ERROR}},
    }


# The protocol's text, OpenAI's object below /v1.
_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": ["string", "object"]}},
}


def _described(method: str, path: str, row: Operation, named: dict[type, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": row.summary,
        "operationId": re.sub(r"\W+", "_", f"{method}{path}").strip("_"),
        "tags": [path.split("/")[1]],
        "responses": {
            "200": {
                "description": "done",
                **({"content": {kind: {"schema": _ANY} for kind in row.answers}} if row.answers else {}),
            },
            **{str(status): _error(text) for status, text in sorted((_ALWAYS | row.errors).items())},
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    if row.binary:
        size = {"type": "integer", "minimum": 0}
        parameters.append({"name": oip_infer.HEADER_LENGTH, "in": "header", "required": False, "schema": size})
    if parameters:
        found["parameters"] = parameters
    if row.body is not None:
        content = {JSON: {"schema": named[row.body]}}
        if row.binary:
            content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
        found["requestBody"] = {"required": not row.optional, "content": content}
    return found


def _error(text: str) -> dict[str, Any]:
    error = {"$ref": "#/components/schemas/Error"}
    return {"description": text, "content": {JSON: {"schema": error}, _TEXT: {"schema": _ANY}}}
