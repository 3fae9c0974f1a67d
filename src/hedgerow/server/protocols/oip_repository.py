"""The model repository extension (index, load, unload) and the statistics extension, over REST.

Source: Triton, "Model Repository Extension" and "Statistics Extension".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hedgerow.server.errors import BadRequest, NotFound, Unusable
from hedgerow.server.protocols.http import body, decode, json_response
from hedgerow.server.protocols.oip import Guarded, model_routes, which

if TYPE_CHECKING:
    from hedgerow.server.dataplane import DataPlane
    from hedgerow.server.models import Served
    from hedgerow.server.modelstatistics import Duration

_LIMIT = 64 * 1024


class IndexRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """``ready``: only versions that are served."""

    ready: bool = False


class LoadParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """None: models are what lies in the repository."""


class LoadRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A load."""

    parameters: LoadParameters = LoadParameters()


class UnloadParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """``unload_dependents``: models here depend on none, so either value says the same."""

    unload_dependents: bool = False


class UnloadRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """An unload."""

    parameters: UnloadParameters = UnloadParameters()


def routes(plane: DataPlane) -> list[Route]:
    async def index(request: Request) -> Response:
        asked = decode(await body(request, limit=_LIMIT) or b"{}", IndexRequest)
        found = [each for each in await plane.index() if each.state == "READY" or not asked.ready]
        return json_response(
            [{"name": each.name, "version": each.version, "state": each.state, "reason": each.reason} for each in found]
        )

    async def load(request: Request) -> Response:
        decode(await body(request, limit=_LIMIT) or b"{}", LoadRequest)
        try:
            await plane.load(request.path_params["model"])
        except (NotFound, Unusable) as error:  # the extension's status for any load that fails
            raise BadRequest(error.text) from error
        return Response(b"")

    async def unload(request: Request) -> Response:
        decode(await body(request, limit=_LIMIT) or b"{}", UnloadRequest)
        await plane.unload(request.path_params["model"])
        return Response(b"")

    async def statistics(request: Request) -> Response:
        return json_response({"model_stats": [_shown(model) for model in plane.statistics(*which(request))]})

    async def all_statistics(_: Request) -> Response:
        return json_response({"model_stats": [_shown(model) for model in plane.statistics()]})

    return [
        Route("/v2/repository/index", Guarded(index), methods=["POST"]),
        Route("/v2/repository/models/{model}/load", Guarded(load), methods=["POST"]),
        Route("/v2/repository/models/{model}/unload", Guarded(unload), methods=["POST"]),
        Route("/v2/models/stats", Guarded(all_statistics), methods=["GET"]),
        *model_routes("/stats", statistics),
    ]


def _shown(model: Served) -> dict[str, Any]:
    figures = model.statistics
    nothing = {"count": 0, "ns": 0}

    def duration(value: Duration) -> dict[str, int]:
        return {"count": value.count, "ns": value.ns}

    return {
        "name": model.name,
        "version": model.version,
        "last_inference": figures.last_inference,
        "inference_count": figures.rows,
        "execution_count": figures.executions,
        "inference_stats": {
            "success": duration(figures.success),
            "fail": duration(figures.fail),
            "queue": duration(figures.queue),
            "compute_input": nothing,
            "compute_infer": duration(figures.compute),
            "compute_output": nothing,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [
            {
                "batch_size": batch.batch_size,
                "compute_input": nothing,
                "compute_infer": duration(batch.compute),
                "compute_output": nothing,
            }
            for batch in sorted(figures.batches.values(), key=lambda each: each.batch_size)
        ],
        "memory_usage": [],
    }
