"""``/health/live``, ``/health/ready``, ``/health/report`` and ``/metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from hedgerow.server.protocols.http import json_response

if TYPE_CHECKING:
    from hedgerow.server.dataplane import DataPlane
    from hedgerow.server.observe import Observer

# prometheus_client.exposition.CONTENT_TYPE_PLAIN_0_0_4
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


def routes(plane: DataPlane, observer: Observer) -> list[Route]:
    async def live(_: Request) -> Response:
        return PlainTextResponse("live\n")

    async def ready(_: Request) -> Response:
        return PlainTextResponse("ready\n") if plane.ready() else PlainTextResponse("not ready\n", 503)

    async def report(_: Request) -> Response:
        return json_response(await observer.report())

    async def metrics(_: Request) -> Response:
        return Response(plane.metrics.exposition(), headers={"content-type": _EXPOSITION})

    return [
        Route("/health/live", live),
        Route("/health/ready", ready),
        Route("/health/report", report),
        Route("/metrics", metrics),
    ]
