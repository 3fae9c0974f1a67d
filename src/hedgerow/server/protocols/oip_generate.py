"""The generate extension: text in, text out, whole or as server-sent events.

Source: Triton, "Generate Extension", with the fields of its backends for language models: ``text_input`` is given to
the model as it is; how to generate may stand beside it or among ``parameters``. What is not supported is refused by
name.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct, structs
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hedgerow.server.backends import TextRequest
from hedgerow.server.errors import BadRequest, ServingError
from hedgerow.server.protocols.http import (
    EventStream,
    body,
    decode,
    device_only,
    json_response,
    look,
    timeout_s,
    unless_gone,
)
from hedgerow.server.protocols.oip import PROTOCOL, model_routes, which

if TYPE_CHECKING:
    from starlette.routing import Route

    from hedgerow.server.config import Limits
    from hedgerow.server.dataplane import DataPlane
    from hedgerow.server.pieces import Piece

_DEFAULT_TOKENS = 256


class Sampling(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to generate; ``stop`` texts end the answer and are not part of it. None: not said."""

    stream: bool | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None


class Generate(Sampling, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request."""

    text_input: str
    id: str | None = None
    parameters: Sampling = Sampling()


def routes(plane: DataPlane, limits: Limits) -> list[Route]:
    async def read(request: Request) -> tuple[Generate, Sampling, AsyncGenerator[list[Piece], None]]:
        name, version = which(request)
        look(plane)
        asked = decode(await body(request, limit=limits.json_body_bytes), Generate)
        how = _merged(asked)
        await plane.bring(name)
        wanted = text_request(asked.text_input, how, limits, timeout_s(request))
        wanted = dataclasses.replace(wanted, device_only=device_only(request))
        return asked, how, plane.generate(name, wanted, protocol=PROTOCOL, version=version)

    async def whole(request: Request) -> Response:
        asked, how, pieces = await read(request)
        if how.stream:
            raise BadRequest("an answer in parts is asked for at generate_stream", field="stream")
        text = await unless_gone(request, _whole(pieces))
        return json_response({**_head(request, asked), "text_output": text})

    async def stream(request: Request) -> Response:
        asked, how, pieces = await read(request)
        head = _head(request, asked)
        if how.stream is False:
            text = await unless_gone(request, _whole(pieces))
            return _Streamed(EventStream(_once(_event({**head, "text_output": text}))))
        # The first piece is awaited before the answer begins: until then an error still has a status code.
        first = await unless_gone(request, anext(pieces))
        return _Streamed(EventStream(_events(head, first, pieces)))

    def _head(request: Request, asked: Generate) -> dict[str, Any]:
        name, version = which(request)
        # None where nothing is in service, and what answers is another machine.
        model = plane.serving(name) if version is None else plane.served(name, version)
        given = {} if asked.id is None else {"id": asked.id}
        return {**given, "model_name": name, "model_version": "" if model is None else model.version}

    return [
        *model_routes("/generate", whole, method="POST"),
        *model_routes("/generate_stream", stream, method="POST"),
    ]


def _merged(asked: Generate) -> Sampling:
    """What is said beside the text and among the parameters; the same field in both would be two answers."""
    said = {}
    for name in Sampling.__struct_fields__:
        values = [each for each in (getattr(asked, name), getattr(asked.parameters, name)) if each is not None]
        if len(values) > 1:
            raise BadRequest(f"{name} stands beside text_input and among parameters", field=name)
        said[name] = values[0] if values else None
    return structs.replace(Sampling(), **said)


def text_request(text: str, how: Sampling, limits: Limits, within_s: float | None) -> TextRequest:
    """What to generate behind ``text``.

    Raises:
        BadRequest: a value that this server does not allow.
    """
    wanted = how.max_tokens or min(_DEFAULT_TOKENS, limits.max_tokens)
    if wanted > limits.max_tokens:
        raise BadRequest(f"max_tokens is {wanted}; this server allows {limits.max_tokens}", field="max_tokens")
    stop = (how.stop,) if isinstance(how.stop, str) else tuple(how.stop or ())
    if not all(stop):
        raise BadRequest("stop holds an empty text", field="stop")
    return TextRequest(
        prompt=text,
        max_tokens=wanted,
        temperature=1.0 if how.temperature is None else how.temperature,
        top_p=1.0 if how.top_p is None else how.top_p,
        seed=how.seed,
        stop=stop,
        timeout_s=within_s,
    )


async def _whole(batches: AsyncGenerator[list[Piece], None]) -> str:
    async with contextlib.aclosing(batches):
        return "".join([piece.text async for batch in batches for piece in batch])


async def _once(event: bytes) -> AsyncIterator[bytes]:
    yield event


async def _events(
    head: dict[str, Any], first: list[Piece], rest: AsyncGenerator[list[Piece], None]
) -> AsyncIterator[bytes]:
    """Ready-made events; what is ready together is sent together."""

    def texts(batch: list[Piece]) -> bytes:
        return b"".join(_event({**head, "text_output": piece.text}) for piece in batch if piece.text)

    async with contextlib.aclosing(rest):
        data = texts(first)
        if data:
            yield data
        try:
            async for batch in rest:
                data = texts(batch)
                if data:
                    yield data
        except ServingError as error:
            # The status line is long gone: the stream itself must say that it broke.
            yield _event({"error": error.text})


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


class _Streamed(Response):
    """Starlette wants a Response; the stream answers for itself."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__()
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._stream(scope, receive, send)
