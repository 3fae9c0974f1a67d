"""The control socket's routes: how ``hedgerow-device`` has a version prepared, switched to, or forgotten; draining.

Only root and the server itself can open the socket; there is no other authentication.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Protocol

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hedgerow.server.drain import MAXIMUM_S
from hedgerow.server.errors import NotFound, Unusable
from hedgerow.server.protocols.http import body, decode, json_response

if TYPE_CHECKING:
    from hedgerow.server.dataplane import DataPlane
    from hedgerow.server.models import Served

_LIMIT = 4096


class Runs(Protocol):
    """What this process was started with; ``hedgerow.server.observe.Observer`` knows it."""

    @property
    def runtime(self) -> str: ...

    @property
    def configuration(self) -> str | None: ...


class Which(Struct, frozen=True, forbid_unknown_fields=True):
    """A version of a model on this device."""

    name: str
    version: str


class HowLong(Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds after which a drain ends by itself."""

    within_s: Annotated[float, Meta(gt=0, le=MAXIMUM_S)]


def routes(plane: DataPlane, model: str, runs: Runs) -> list[Route]:
    async def prepare(request: Request) -> Response:
        which = decode(await body(request, limit=_LIMIT), Which)
        try:
            done = await plane.prepare(which.name, which.version)
        except NotFound as error:
            return _refused("not_found", error.text)
        except Unusable as error:
            return _refused(error.code, error.text)
        return json_response({"load_s": done.load_s, "golden": {"passed": done.golden, "failed": 0}})

    async def switch(request: Request) -> Response:
        which = decode(await body(request, limit=_LIMIT), Which)
        serving, previous = await plane.switch(which.name, which.version)
        return json_response({"serving": _shown(serving), "previous": _shown(previous)})

    async def discard(request: Request) -> Response:
        await plane.discard(decode(await body(request, limit=_LIMIT), Which).name)
        return json_response({})

    return [
        Route("/control/v1/prepare", prepare, methods=["POST"]),
        Route("/control/v1/switch", switch, methods=["POST"]),
        Route("/control/v1/discard", discard, methods=["POST"]),
        *_state_routes(plane, model, runs),
    ]


def _state_routes(plane: DataPlane, model: str, runs: Runs) -> list[Route]:
    async def drain(request: Request) -> Response:
        plane.drain.begin(decode(await body(request, limit=_LIMIT), HowLong).within_s)
        return state()

    async def undrain(_: Request) -> Response:
        plane.drain.end()
        return state()

    async def status(_: Request) -> Response:
        return state()

    def state() -> Response:
        return json_response(
            {
                "serving": _shown(plane.serving(model)),
                "prepared": _shown(plane.prepared(model)),
                "inflight": plane.inflight,
                "drained_until": plane.drain.until,
                "runtime": runs.runtime,
                "configuration": runs.configuration,
                "stood_in": plane.degradation.stood_in,
            }
        )

    return [
        Route("/control/v1/drain", drain, methods=["POST"]),
        Route("/control/v1/undrain", undrain, methods=["POST"]),
        Route("/control/v1/status", status),
    ]


def _refused(code: str, text: str) -> Response:
    return json_response({"error": {"code": code, "text": text}}, status=422)


def _shown(model: Served | None) -> dict[str, Any] | None:
    return None if model is None else {"name": model.name, "version": model.version, "sha256": model.sha256}
