"""A request that has ended, described once for all who tell of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from hedgerow.server.backends import TextRequest
    from hedgerow.server.telemetry.caller import Caller

_SERVER_FAULT: Final = 500
_BUSY: Final = 429
TENSORS: Final = "tensors"
_SIZES: Final = ((128, "up_to_128"), (512, "up_to_512"), (2048, "up_to_2048"))
_LARGER: Final = "larger"
PROMPT_SIZES: Final = (TENSORS, *(name for _, name in _SIZES), _LARGER)
"""Classes of prompts by their tokens; a request without any is of ``tensors``."""


def prompt_size(tokens: int) -> str:
    """The class of a prompt of so many tokens."""
    if not tokens:
        return TENSORS
    return next((name for most, name in _SIZES if tokens <= most), _LARGER)


class Finished(Struct, frozen=True):
    """Times are monotonic seconds: ``arrived`` on a door, ``started`` on a model's name, ``began`` to compute.

    ``first`` and ``last`` are tokens'. ``began`` and ``first`` are None where it never came to that. ``cause`` is why
    it failed. ``request`` and ``text`` are there only while samples are kept.
    """

    caller: Caller
    span_id: str
    model: str
    version: str
    protocol: str
    code: int
    cause: str | None
    arrived: float
    started: float
    began: float | None
    first: float | None
    last: float
    ended: float
    rows: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    finish: str | None = None
    request: TextRequest | None = None
    text: str | None = None

    @property
    def duration_s(self) -> float:
        return self.ended - self.started

    @property
    def queued_s(self) -> float | None:
        """How long it waited for its turn."""
        return None if self.began is None else max(0.0, self.began - self.started)

    @property
    def first_token_s(self) -> float | None:
        return None if self.first is None else self.first - self.started

    @property
    def tokens_per_s(self) -> float | None:
        """Of the answer, behind its first token: that one's wait is the prompt's."""
        if self.first is None or self.tokens <= 1 or self.last <= self.first:
            return None
        return (self.tokens - 1) / (self.last - self.first)

    @property
    def failed(self) -> bool:
        """Whether the server is to blame; a caller's mistakes are none of its failures."""
        return self.code >= _SERVER_FAULT or self.code == _BUSY

    def slow(self, whole_s: float, first_token_s: float) -> bool:
        """Whether it took longer than it should."""
        first = self.first_token_s
        return self.duration_s > whole_s or (first is not None and first > first_token_s)
