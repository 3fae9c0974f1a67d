"""OpenAI-compatible: ``/v1/models`` and ``/v1/chat/completions``, streamed or whole.

Source of shapes: OpenAI's API reference, "Chat completions" and "Models". A field that is not supported is refused by
name, never silently ignored; one that is given its neutral value (``n: 1``) is accepted.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from hedgerow.server.backends import TextRequest
from hedgerow.server.errors import BadRequest, NotFound, ServingError
from hedgerow.server.protocols.http import EventStream, body, decode, json_response, retry_headers, unless_gone

if TYPE_CHECKING:
    from hedgerow.server.config import Limits
    from hedgerow.server.dataplane import DataPlane
    from hedgerow.server.models import Served
    from hedgerow.server.scheduler import Piece

PROTOCOL = "openai"
_DEFAULT_TOKENS = 256
_DONE = b"data: [DONE]\n\n"
_KINDS = {400: "invalid_request_error", 404: "invalid_request_error", 413: "invalid_request_error"}


_Nought = Annotated[float, Meta(ge=0, le=0)]


class TextPart(Struct, frozen=True, forbid_unknown_fields=True):
    """A text part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """One message; a list of parts is joined."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream ends with."""

    include_usage: bool = False


class ChatRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The supported fields. ``n``, the penalties and ``user`` only with their neutral values."""

    model: str
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Literal[1] | None = None
    presence_penalty: _Nought | None = None
    frequency_penalty: _Nought | None = None
    user: str | None = None


def routes(plane: DataPlane, limits: Limits) -> list[Route]:
    async def models(_: Request) -> Response:
        listed = [_model(plane.served(name)) for name in plane.names if plane.ready(name)]
        return json_response({"object": "list", "data": listed})

    async def one_model(request: Request) -> Response:
        return json_response(_model(plane.served(request.path_params["model"])))

    async def chat(request: Request) -> Any:
        asked = decode(await body(request, limit=limits.body_bytes), ChatRequest)
        pieces = plane.generate(asked.model, _text_request(asked, limits), protocol=PROTOCOL)
        if not asked.stream:
            return json_response(await unless_gone(request, _whole(asked.model, pieces)))
        # The first piece is awaited before the answer begins: until then an error still has a status code.
        first = await unless_gone(request, anext(pieces))
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return _Streamed(EventStream(_events(asked.model, first, pieces, usage=usage)))

    return [
        Route("/v1/models", _guarded(models)),
        Route("/v1/models/{model}", _guarded(one_model)),
        Route("/v1/chat/completions", _guarded(chat), methods=["POST"]),
    ]


def error_body(error: ServingError) -> dict[str, Any]:
    """OpenAI's error object."""
    code = "model_not_found" if isinstance(error, NotFound) else None
    kind = _KINDS.get(error.status, "server_error")
    return {"error": {"message": error.text, "type": kind, "param": error.field, "code": code}}


def _guarded(handler: Any) -> Any:
    async def endpoint(request: Request) -> Any:
        try:
            return await handler(request)
        except ServingError as error:
            response = json_response(error_body(error), status=error.status)
            response.headers.update(retry_headers(error))
            return response

    return endpoint


class _Streamed(Response):
    """Starlette wants a Response; the stream answers for itself."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__()
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._stream(scope, receive, send)


def _text_request(asked: ChatRequest, limits: Limits) -> TextRequest:
    if asked.max_tokens is not None and asked.max_completion_tokens is not None:
        raise BadRequest("max_tokens and max_completion_tokens say the same; give one", field="max_tokens")
    wanted = asked.max_tokens or asked.max_completion_tokens or _DEFAULT_TOKENS
    if wanted > limits.max_tokens:
        raise BadRequest(f"max_tokens is {wanted}; this server allows {limits.max_tokens}", field="max_tokens")
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    if not all(stop):
        raise BadRequest("stop holds an empty text", field="stop")
    # "developer" is OpenAI's newer name for "system"; chat templates know the older one.
    roles = {"developer": "system"}
    return TextRequest(
        messages=[{"role": roles.get(each.role, each.role), "content": each.text} for each in asked.messages],
        max_tokens=wanted,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        seed=asked.seed,
        stop=stop,
    )


async def _whole(model: str, batches: AsyncGenerator[list[Piece], None]) -> dict[str, Any]:
    async with contextlib.aclosing(batches):
        pieces = [piece async for batch in batches for piece in batch]
    message = {"role": "assistant", "content": "".join(piece.text for piece in pieces)}
    choice = {"index": 0, "message": message, "finish_reason": pieces[-1].finish, "logprobs": None}
    return {**_head(model, "chat.completion"), "choices": [choice], "usage": _usage(pieces[-1])}


async def _events(
    model: str, first: list[Piece], rest: AsyncGenerator[list[Piece], None], *, usage: bool
) -> AsyncIterator[bytes]:
    """Ready-made events; what is ready together is sent together."""
    head = _head(model, "chat.completion.chunk")
    more = {"usage": None} if usage else {}

    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _event({**head, "choices": [choice], **more})

    def texts(batch: list[Piece]) -> bytes:
        return b"".join(chunk({"content": piece.text}) for piece in batch if piece.text)

    def end(last: Piece) -> bytes:
        total = _event({**head, "choices": [], "usage": _usage(last)}) if usage else b""
        return chunk({}, last.finish) + total + _DONE

    async with contextlib.aclosing(rest):
        batch = first
        data = chunk({"role": "assistant", "content": ""})
        try:
            while batch[-1].finish is None:
                data += texts(batch)
                if data:
                    yield data
                data, batch = b"", await anext(rest)
        except ServingError as error:
            # The status line is long gone: the stream itself must say that it broke.
            yield _event(error_body(error))
            return
        yield data + texts(batch) + end(batch[-1])


def _event(value: Any) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _head(model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _usage(piece: Piece) -> dict[str, int]:
    return {
        "prompt_tokens": piece.prompt_tokens,
        "completion_tokens": piece.tokens,
        "total_tokens": piece.prompt_tokens + piece.tokens,
    }


def _model(served: Served) -> dict[str, Any]:
    return {"id": served.name, "object": "model", "created": int(served.since.timestamp()), "owned_by": "hedgerow"}
