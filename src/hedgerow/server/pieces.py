"""What an answer is made of while it is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Said(NamedTuple):
    """A token: its text (empty where it ends no character), and the natural logarithm of its probability."""

    text: str
    logprob: float


@dataclass(frozen=True)
class Piece:
    """Some text of an answer. The last piece has ``finish`` set: ``stop`` or ``length``.

    ``said``: its tokens, where the request asks for their ``logprobs``.
    """

    text: str
    tokens: int
    prompt_tokens: int
    finish: str | None = None
    said: tuple[Said, ...] = ()
