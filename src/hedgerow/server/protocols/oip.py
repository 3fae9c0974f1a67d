"""Open Inference Protocol v2 over REST: health, metadata, configuration, infer; versions in the path.

Source: KServe, "Open Inference Protocol" (REST), and Triton's extensions of it. A parameter or field that is not
supported is refused by name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from hedgerow import __version__
from hedgerow.server import modelconfig
from hedgerow.server.errors import NotFound, Overloaded, ServingError
from hedgerow.server.protocols import oip_infer
from hedgerow.server.protocols.http import json_response, look, retry_headers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from hedgerow.server.backends import TensorSpec
    from hedgerow.server.config import Limits
    from hedgerow.server.dataplane import DataPlane

PROTOCOL = "oip"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "generate",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "statistics",
)


def routes(plane: DataPlane, limits: Limits) -> list[Route]:
    async def server(_: Request) -> Response:
        return json_response({"name": "hedgerow", "version": __version__, "extensions": EXTENSIONS})

    async def live(_: Request) -> Response:
        return PlainTextResponse("")

    async def ready(_: Request) -> Response:
        return PlainTextResponse("", 200 if plane.ready() else 503)

    async def metadata(request: Request) -> Response:
        await plane.bring(which(request)[0])
        known = plane.metadata(*which(request))
        return json_response(
            {
                "name": known.name,
                "versions": list(known.versions),
                "platform": known.platform,
                "inputs": [_described(spec) for spec in known.inputs],
                "outputs": [_described(spec) for spec in known.outputs],
            }
        )

    async def config(request: Request) -> Response:
        await plane.bring(which(request)[0])
        return json_response(modelconfig.shown(plane.config(*which(request))))

    async def model_ready(request: Request) -> Response:
        name, version = which(request)
        return PlainTextResponse("", _readiness(plane, name, version))

    async def infer(request: Request) -> ASGIApp:
        look(plane)
        asked, wanted = await oip_infer.read(request, *which(request), limits)
        return await oip_infer.answer(request, asked, await plane.infer(wanted, protocol=PROTOCOL))

    return [
        *model_routes("/infer", infer, method="POST"),  # first: routes are tried in turn, and this one is asked most
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        *model_routes("", metadata),
        *model_routes("/config", config),
        *model_routes("/ready", model_ready),
    ]


def _readiness(plane: DataPlane, name: str, version: str | None) -> int:
    """The status that says whether a model is ready."""
    if plane.on_demand and version is None and plane.ready(name):  # loaded or not: a request will be answered
        return 200
    try:
        plane.served(name, version)
    except NotFound:
        return 404
    except Overloaded:
        return 503
    return 200 if plane.ready(name) else 503


def model_routes(action: str, handler: Callable[[Request], Awaitable[ASGIApp]], method: str = "GET") -> list[Route]:
    """``handler`` for a model, and for a version of it."""
    paths = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    return [Route(path + action, Guarded(handler), methods=[method]) for path in paths]


class Guarded:
    """``handler`` as an endpoint, with errors in the protocol's shape. Starlette takes an object as ASGI as it is."""

    def __init__(self, handler: Callable[[Request], Awaitable[ASGIApp]]) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._handler(Request(scope, receive, send))
        except ServingError as error:
            refusal = json_response({"error": error.text}, status=error.status)
            refusal.headers.update(retry_headers(error))
            response = refusal
        await response(scope, receive, send)


def which(request: Request) -> tuple[str, str | None]:
    """The model and version of the path."""
    return request.path_params["model"], request.path_params.get("version")


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
