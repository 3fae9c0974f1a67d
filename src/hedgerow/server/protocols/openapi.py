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
from hedgerow.server import modelconfig
from hedgerow.server.protocols import oip_generate, oip_infer, oip_repository, openai_requests
from hedgerow.server.protocols import openapi_answers as shapes
from hedgerow.server.protocols.http import JSON

PATH: Final = "/openapi.json"
_TEXT: Final = "text/plain"
_BYTES: Final = "application/octet-stream"
_EVENTS: Final = "text/event-stream"
# Of what is no JSON: text, or bytes behind it.
_OTHER: Final[dict[str, dict[str, Any]]] = {
    _TEXT: {"type": "string"},
    _EVENTS: {},  # OpenAPI 3.1 has no words for a stream's items
    _BYTES: {"type": "string", "format": "binary"},
}
# A document that is described elsewhere.
_OBJECT: Final[dict[str, Any]] = {"type": "object"}


@dataclass(frozen=True)
class Operation:
    """A row: what it does, the structs of its body and of its answer in JSON, the answer's kinds, statuses of its own.

    ``binary``: bytes may follow the JSON. ``answer`` None is an object. Every operation may also answer with what
    ``_ALWAYS`` has.
    """

    summary: str
    body: type | None = None
    answer: Any = None
    optional: bool = False
    binary: bool = False
    answers: tuple[str, ...] = (JSON,)
    errors: dict[int, str] = field(default_factory=dict)


_REFUSED: Final = {400: "the request is wrong; the text says where"}
_ABSENT: Final = {404: "no such model or version", 503: "no model is in service yet"}
_BODY: Final = {
    **_REFUSED,
    413: "the body is too large",
    415: "the body is compressed in an unknown way",
}
_WORK: Final = {
    **_BODY,
    **_ABSENT,
    429: "too many requests wait; come back after Retry-After seconds",
    500: "the runtime failed",
    503: "drained or stopping; come back after Retry-After seconds",
    504: "the time is over within which the answer was wanted",
}
_ALWAYS: Final = {
    400: "this is no HTTP",
    403: "the caller's certificate does not allow it",
    405: "another method is wanted",
    408: "the request came too slowly",
    431: "the request's head is too large",
}
# On these OpenAI's shape is not known yet, or no more.
_PLAIN: Final = {400, 403, 408, 431, 500}


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
    ("get", "/v1/models"): Operation("Models in service", answer=shapes.Models),
    ("get", "/v1/models/{model}"): Operation("One model", answer=shapes.Model, errors=_ABSENT),
    ("post", "/v1/chat/completions"): Operation(
        "Answer a conversation, whole or streamed",
        body=openai_requests.ChatRequest,
        answer=shapes.ChatCompletion,
        answers=(JSON, _EVENTS),
        errors=_WORK,
    ),
    ("post", "/v1/completions"): Operation(
        "Go on from a text, whole or streamed",
        body=openai_requests.CompletionRequest,
        answer=shapes.Completion,
        answers=(JSON, _EVENTS),
        errors=_WORK,
    ),
    ("get", "/v2"): Operation("Name, version and extensions of the server", answer=shapes.ServerMetadata),
    ("get", "/v2/health/live"): Operation("Whether the process answers", answers=(_TEXT,)),
    ("get", "/v2/health/ready"): Operation(
        "Whether requests are taken", answers=(_TEXT,), errors={503: "no model is in service, or drained"}
    ),
    **_of_models("", Operation("What a model takes and gives", answer=shapes.ModelMetadata, errors=_ABSENT)),
    **_of_models("/config", Operation("A model's configuration", answer=modelconfig.ModelConfig, errors=_ABSENT)),
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
            answer=shapes.InferResponse,
            answers=(JSON, _BYTES),
            errors=_WORK,
        ),
        method="post",
    ),
    **_of_models(
        "/generate",
        Operation("Go on from a text", body=oip_generate.Generate, answer=shapes.Generated, errors=_WORK),
        method="post",
    ),
    **_of_models(
        "/generate_stream",
        Operation("The same as it comes", body=oip_generate.Generate, answers=(_EVENTS,), errors=_WORK),
        method="post",
    ),
    ("get", "/v2/models/stats"): Operation("Statistics of every model", answer=shapes.Statistics),
    **_of_models("/stats", Operation("Statistics of a model", answer=shapes.Statistics, errors=_ABSENT)),
    ("post", "/v2/repository/index"): Operation(
        "Models of the repository and their states",
        body=oip_repository.IndexRequest,
        optional=True,
        answer=list[shapes.ModelIndex],
        errors=_BODY,
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
    kinds: set[Any] = {shapes.Error, shapes.OpenAIError}
    for row in OPERATIONS.values():
        kinds |= {each for each in (row.body, row.answer) if each is not None}
    known = sorted(kinds, key=str)
    schemas, components = msgspec.json.schema_components(known, ref_template="#/components/schemas/{name}")
    named = dict(zip(known, schemas, strict=True))
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
        "components": {"schemas": components},
    }


def _described(method: str, path: str, row: Operation, named: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    forms = {JSON: _OBJECT if row.answer is None else named[row.answer], **_OTHER}
    found: dict[str, Any] = {
        "summary": row.summary,
        "operationId": re.sub(r"\W+", "_", f"{method}{path}").strip("_"),
        "tags": [path.split("/")[1]],
        "responses": {
            "200": {
                "description": "done",
                **({"content": {kind: {"schema": forms[kind]} for kind in row.answers}} if row.answers else {}),
            },
            **{
                str(status): _error(path, row, status, text, named)
                for status, text in sorted((_ALWAYS | row.errors).items())
            },
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[^/]+$"}}
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
            content[_BYTES] = {"schema": _OTHER[_BYTES]}
        found["requestBody"] = {"required": not row.optional, "content": content}
    return found


def _error(path: str, row: Operation, status: int, text: str, named: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    schema = named[shapes.Error]
    if path.startswith("/v1"):
        schema = {"anyOf": [named[shapes.OpenAIError], schema]} if status in _PLAIN else named[shapes.OpenAIError]
    content: dict[str, Any] = {JSON: {"schema": schema}}
    if _TEXT in row.answers:
        content[_TEXT] = {"schema": _OTHER[_TEXT]}
    return {"description": text, "content": content}
