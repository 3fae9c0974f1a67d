"""A chat answer as it comes: OpenAI's chat completions as server-sent events, read by who asks a device."""

from __future__ import annotations

import time
from dataclasses import dataclass

import httpx
import msgspec

from hedgerow.errors import DeviceError


@dataclass(frozen=True)
class ChatPiece:
    """A piece of an answer, ``at_s`` seconds after the question was sent; ``tokens`` once the server counted them.

    ``logprobs``: natural logarithms of the probabilities of its tokens, where they were asked for and are known.
    """

    text: str
    at_s: float
    tokens: int | None = None
    logprobs: tuple[float, ...] = ()


def refused_field(response: httpx.Response) -> str | None:
    """The field of a request that an error in OpenAI's shape names."""
    try:
        found = response.json()["error"]["param"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def read_event(line: str, started: float, *, where: str) -> ChatPiece | None:
    """One line of the event stream; None for blank lines, comments, the role and the end mark."""
    if not line.startswith("data:"):
        return None
    data = line.removeprefix("data:").strip()
    if data == "[DONE]":
        return None
    try:
        document = msgspec.json.decode(data)
        if "error" in document:
            raise DeviceError(f"it broke off its answer: {document['error']}", where=where)
        choices = document.get("choices") or [{}]
        text = (choices[0].get("delta") or {}).get("content") or ""
        tokens = (document.get("usage") or {}).get("completion_tokens")
        weighed = (choices[0].get("logprobs") or {}).get("content") or []
        logprobs = tuple(float(token["logprob"]) for token in weighed)
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError) as error:
        raise DeviceError(f"an event of the stream cannot be read: {data[:200]!r}", where=where) from error
    if not text and tokens is None and not logprobs:
        return None
    return ChatPiece(text, time.monotonic() - started, tokens, logprobs)
