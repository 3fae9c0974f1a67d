"""What the HTTP adapters share: JSON in and out, error answers, an event stream that notices who left."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hedgerow.server.errors import BadRequest, Gone, Overloaded, RateLimited, ServingError
from hedgerow.server.protocols import bodies, elsewhere
from hedgerow.server.telemetry.caller import current

if TYPE_CHECKING:
    from hedgerow.server.dataplane import DataPlane

T = TypeVar("T")
JSON = "application/json"
_TIMEOUT = "x-request-timeout"


def json_response(value: Any, *, status: int = 200) -> Response:
    """``value`` as JSON."""
    return Response(msgspec.json.encode(value), status_code=status, media_type=JSON)


def retry_headers(error: ServingError) -> dict[str, str]:
    """Retry-After where another try may help."""
    return {"retry-after": str(error.retry_after_s)} if isinstance(error, Overloaded) else {}


def look(plane: DataPlane) -> None:
    """Refuse a client that has asked too much, before its request's body is read.

    Raises:
        RateLimited
    """
    if not plane.clients.limited:
        return
    caller = current()
    try:
        plane.clients.look(caller.client)
    except RateLimited as error:
        caller.cause = error.cause
        raise


async def body(request: Request, *, limit: int) -> memoryview:
    """A body without tensors behind it. Raises as ``bodies.read``."""
    return await bodies.read(request, limit=limit, head=None)


def decode(data: bytes | memoryview, kind: type[T]) -> T:
    """Strict JSON into ``kind``.

    Raises:
        BadRequest: not JSON, or a field that is not allowed; ``field`` names it where it can be told.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error), field=_field(str(error))) from error
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: {error}") from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deep") from error


# "Object contains unknown field `x` - at `$.y`", "Object missing required field `x`"; "Expected `int` - at `$.n`"
_NAMED_FIELD = re.compile(r"^(?:Object [^`]*field `(?P<field>[^`]+)`)?.*?(?:at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)


def _field(message: str) -> str | None:
    """The field that msgspec's message is about, with its path: ``messages[0].content``."""
    found = _NAMED_FIELD.match(message)
    return None if found is None else ".".join(filter(None, (found["path"], found["field"]))) or None


def timeout_s(request: Request) -> float | None:
    """How long the caller waits for the answer, if it says so: ``X-Request-Timeout``, in seconds.

    Raises:
        BadRequest: no positive number.
    """
    stated = request.headers.get(_TIMEOUT)
    if stated is None:
        return None
    try:
        seconds = float(stated)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise BadRequest(f"{_TIMEOUT} is {stated!r}, not a positive number of seconds", field=_TIMEOUT)
    return seconds


def device_only(request: Request) -> bool:
    """Whether the caller wants no other machine to answer: ``X-Hedgerow-Answer: device``. Raises as ``elsewhere``."""
    return elsewhere.device_only(request.headers.get)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which ends at once when the caller hangs up. The body must have been read.

    Raises:
        Gone: the caller hung up.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone("the caller hung up")
        return working.result()
    finally:
        await _end(working, leaving)


class EventStream:
    """Server-sent events from an iterator of ready-made ``data`` lines; when the caller leaves, it ends at once."""

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(sending, leaving)

    async def _send(self, send: Send) -> None:
        try:
            async for data in self._events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            await self._events.aclose()  # type: ignore[attr-defined] # it is a generator
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what still runs, and wait until it has cleaned up."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, ServingError | OSError):
            raise result


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
