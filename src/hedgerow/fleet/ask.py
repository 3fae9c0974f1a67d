"""Put one question to every Pi and time the answers where they are heard: on the controller."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence

import msgspec

from hedgerow.errors import HedgerowError
from hedgerow.fleet.chat_stream import ChatPiece
from hedgerow.fleet.endpoint import DeviceClient, Endpoint

TIMEOUT_S = 60.0
"""Longest wait for the next piece. A queue of other users' questions may stand before the first one."""

SPEED_FROM_TOKENS = 16
"""Fewer come so close together that a single late packet would make the figure."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A host's answer.

    ``ttft_ms``: from sending the question to the first piece of text. ``tokens_per_s``: tokens after the first,
    divided by the time between the first and the last; None for an answer too short to say.
    """

    host: str
    text: str = ""
    tokens: int | None = None
    ttft_ms: float | None = None
    tokens_per_s: float | None = None
    problem: str | None = None

    @property
    def ok(self) -> bool:
        return self.problem is None


def ask(
    endpoint: Endpoint,
    context: ssl.SSLContext,
    *,
    model: str,
    question: str,
    max_tokens: int,
    on_text: Callable[[str], None],
) -> Answer:
    """Ask one host; ``on_text`` gets each piece as it comes. A host that fails is an answer with ``problem``."""
    pieces: list[ChatPiece] = []
    try:
        with DeviceClient(endpoint, context, timeout_s=TIMEOUT_S) as client:
            messages = [{"role": "user", "content": question}]
            for piece in client.stream_chat(model, messages, max_tokens=max_tokens):
                pieces.append(piece)
                if piece.text:
                    on_text(piece.text)
    except HedgerowError as error:
        return summarize(endpoint.host, pieces, problem=error.what)
    if not any(piece.text for piece in pieces):
        return summarize(endpoint.host, pieces, problem="it answered with no text")
    return summarize(endpoint.host, pieces)


def summarize(host: str, pieces: Sequence[ChatPiece], *, problem: str | None = None) -> Answer:
    """Text and timing of the pieces of one answer."""
    spoken = [piece for piece in pieces if piece.text]
    counted = [piece.tokens for piece in pieces if piece.tokens is not None]
    # A server that does not count sends one piece a token, or a few of them for one character.
    tokens = counted[-1] if counted else len(spoken) or None
    seconds = spoken[-1].at_s - spoken[0].at_s if spoken else 0.0
    return Answer(
        host=host,
        text="".join(piece.text for piece in spoken),
        tokens=tokens,
        ttft_ms=round(spoken[0].at_s * 1000, 1) if spoken else None,
        tokens_per_s=_speed(tokens, seconds),
        problem=problem,
    )


def _speed(tokens: int | None, seconds: float) -> float | None:
    if tokens is None or tokens < SPEED_FROM_TOKENS or seconds <= 0:
        return None
    return round((tokens - 1) / seconds, 1)
