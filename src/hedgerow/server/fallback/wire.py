"""OpenAI's shapes as an endpoint has them: what is sent, and the pieces of what comes back. Pure.

Sources: OpenAI's API reference, "Create chat completion", "Create completion", "Streaming"; WHATWG HTML, "Server-sent
events". Answers are read leniently, for every endpoint adds fields; their size is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from hedgerow.server.pieces import Piece

if TYPE_CHECKING:
    from hedgerow.server.backends import TextRequest
    from hedgerow.server.fallback.config import Policy

# A token's event has some 300 bytes; more than these is no answer of a language model.
EVENT_BYTES = 1024 * 1024
ANSWER_BYTES = 64 * 1024 * 1024
# What a chat template puts around a message, and around them all: more than any known one.
_TOKENS_A_MESSAGE = 16
_DONE = "[DONE]"
_Tokens = Annotated[int, Meta(ge=0, le=10**9)]


class Malformed(ValueError):
    """What came is no answer in OpenAI's shape."""


@dataclass(frozen=True)
class Outgoing:
    """``body`` is all that leaves. ``prompt_tokens`` is a bound: a token has at least a byte."""

    path: str
    body: bytes
    prompt_tokens: int
    max_tokens: int


def outgoing(request: TextRequest, policy: Policy) -> Outgoing:
    """The request as it is sent; its texts must be redacted already.

    Always a stream: a caller who leaves stops the endpoint, and its silence is noticed.
    """
    prompt: dict[str, Any]
    if request.messages is None:
        path, prompt, texts = "/completions", {"prompt": request.prompt or ""}, [request.prompt or ""]
    else:
        messages = [dict(message) for message in request.messages]
        path, prompt, texts = "/chat/completions", {"messages": messages}, [each["content"] for each in messages]
    asked = {
        "model": policy.model,
        **prompt,
        policy.limit_field: request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.stop:
        asked["stop"] = list(request.stop)
    if request.seed is not None:
        asked["seed"] = request.seed
    bound = sum(len(text.encode()) for text in texts) + _TOKENS_A_MESSAGE * (len(texts) + 1)
    return Outgoing(path, msgspec.json.encode(asked), bound, request.max_tokens)


class Events:
    """Server-sent events from bytes as they come."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []
        self._total = 0

    def feed(self, data: bytes) -> list[str]:
        """The data of every event that is complete now.

        Raises:
            Malformed: too large, or no UTF-8.
        """
        self._total += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > EVENT_BYTES or self._total > ANSWER_BYTES:
            raise Malformed("the answer is larger than any model's")
        found: list[str] = []
        for line in lines:
            self._line(line.rstrip(b"\r"), found)
        return found

    def _line(self, line: bytes, found: list[str]) -> None:
        if not line:
            if self._data:
                found.append("\n".join(self._data))
                self._data = []
        elif line.startswith(b"data:"):
            try:
                self._data.append(line[5:].removeprefix(b" ").decode())
            except UnicodeDecodeError as error:
                raise Malformed("an event is no UTF-8") from error


class _Delta(Struct):
    content: str | None = None


class _Choice(Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class Usage(Struct, frozen=True):
    """Tokens as the endpoint counts them, and bills them."""

    prompt_tokens: _Tokens = 0
    completion_tokens: _Tokens = 0


class _Chunk(Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: Any = None


class Answer:
    """An answer as its events come. ``usage`` None: not told (yet)."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.tokens = 0
        self._finish: str | None = None
        self._ended = False

    def take(self, data: str) -> list[Piece]:
        """The pieces in one event's data; the last one of the answer has ``finish``.

        Raises:
            Malformed: it is none, or the endpoint says that it failed.
        """
        if data.strip() == _DONE:
            return self.end()
        try:
            chunk = msgspec.json.decode(data, type=_Chunk)
        except msgspec.DecodeError as error:
            # The message has types and field names alone; the data may have the caller's words.
            raise Malformed(f"an event is not in OpenAI's shape: {error}") from error
        if chunk.error is not None:
            raise Malformed("the endpoint reports an error within its answer")
        if chunk.usage is not None:
            self.usage = chunk.usage
        return [piece for choice in chunk.choices[:1] for piece in self._said(choice)]

    def end(self) -> list[Piece]:
        """The last piece, where none was made yet.

        Raises:
            Malformed: the answer breaks off.
        """
        if self._ended:
            return []
        if self._finish is None:
            raise Malformed("the answer breaks off")
        self._ended = True
        used = self.usage or Usage(0, self.tokens)
        return [Piece("", used.completion_tokens, used.prompt_tokens, self._finish)]

    def _said(self, choice: _Choice) -> list[Piece]:
        text = choice.text if choice.delta is None else choice.delta.content
        if choice.finish_reason is not None:
            # What a filter cut off is an ending like any other to callers, who know two.
            self._finish = "length" if choice.finish_reason == "length" else "stop"
        if not text:
            return []
        self.tokens += 1
        return [Piece(text, self.tokens, 0)]
