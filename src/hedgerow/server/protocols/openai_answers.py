"""The shapes of OpenAI's answers, whole and as server-sent events. Source: OpenAI's API reference."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from hedgerow.server.errors import NotFound, ServingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hedgerow.server.pieces import Piece, Said

_DONE = b"data: [DONE]\n\n"
_RATE_LIMITED = 429
_SERVER_FAULT = 500


@dataclass(frozen=True)
class Kind:
    """How one kind of answer is spelled. ``chat`` answers hold a message, others bare text."""

    prefix: str
    whole: str
    chunk: str
    chat: bool

    def answer(self, text: str) -> dict[str, Any]:
        """A whole answer's text."""
        return {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}

    def opening(self) -> dict[str, Any] | None:
        """What a stream begins with, before any text."""
        return {"delta": {"role": "assistant", "content": ""}} if self.chat else None

    def piece(self, text: str) -> dict[str, Any]:
        """Some text of a stream."""
        return {"delta": {"content": text}} if self.chat else {"text": text}

    def ending(self) -> dict[str, Any]:
        """What carries a stream's finish reason."""
        return {"delta": {}} if self.chat else {"text": ""}


CHAT = Kind("chatcmpl", "chat.completion", "chat.completion.chunk", chat=True)
COMPLETION = Kind("cmpl", "text_completion", "text_completion", chat=False)


def error_body(error: ServingError) -> dict[str, Any]:
    """OpenAI's error object."""
    kind, code = "invalid_request_error", None
    if isinstance(error, NotFound):
        code = "model_not_found"
    elif error.status == _RATE_LIMITED:
        kind, code = "rate_limit_error", "rate_limit_exceeded"
    elif error.status >= _SERVER_FAULT:
        kind = "server_error"
    return {"error": {"message": error.text, "type": kind, "param": error.field, "code": code}}


async def whole(kind: Kind, model: str, batches: AsyncGenerator[list[Piece], None]) -> dict[str, Any]:
    """The answer when all of it is said."""
    async with contextlib.aclosing(batches):
        pieces = [piece async for batch in batches for piece in batch]
    said = [token for piece in pieces for token in piece.said]
    choice = _choice(kind.answer("".join(piece.text for piece in pieces)), pieces[-1].finish, said)
    return {**_head(kind, model, kind.whole), "choices": [choice], "usage": _usage(pieces[-1])}


async def events(
    kind: Kind, model: str, first: list[Piece], rest: AsyncGenerator[list[Piece], None], *, usage: bool
) -> AsyncIterator[bytes]:
    """Ready-made events; what is ready together is sent together."""
    head = _head(kind, model, kind.chunk)
    more = {"usage": None} if usage else {}

    def chunk(text: dict[str, Any], finish: str | None = None, said: Sequence[Said] = ()) -> bytes:
        return _event({**head, "choices": [_choice(text, finish, said)], **more})

    def texts(batch: list[Piece]) -> bytes:
        return b"".join(chunk(kind.piece(each.text), said=each.said) for each in batch if each.text or each.said)

    def end(last: Piece) -> bytes:
        total = _event({**head, "choices": [], "usage": _usage(last)}) if usage else b""
        return chunk(kind.ending(), last.finish) + total + _DONE

    async with contextlib.aclosing(rest):
        batch = first
        opening = kind.opening()
        data = b"" if opening is None else chunk(opening)
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


def _head(kind: Kind, model: str, named: str) -> dict[str, Any]:
    return {"id": f"{kind.prefix}-{uuid.uuid4().hex}", "object": named, "created": int(time.time()), "model": model}


def _choice(text: dict[str, Any], finish: str | None, said: Sequence[Said]) -> dict[str, Any]:
    logprobs = {"content": [_weighed(token) for token in said], "refusal": None} if said else None
    return {"index": 0, **text, "finish_reason": finish, "logprobs": logprobs}


def _weighed(token: Said) -> dict[str, Any]:
    return {
        "token": token.text,
        "logprob": token.logprob,
        "bytes": list(token.text.encode()),
        "top_logprobs": [],
    }


def _usage(piece: Piece) -> dict[str, int]:
    return {
        "prompt_tokens": piece.prompt_tokens,
        "completion_tokens": piece.tokens,
        "total_tokens": piece.prompt_tokens + piece.tokens,
    }
