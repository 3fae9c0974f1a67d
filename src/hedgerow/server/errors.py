"""What goes wrong while serving, by whose fault it is. Protocol adapters turn these into their own shapes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

# What an error quotes may be as long as a request: nobody reads more, and journals and clients bound it.
_LONGEST = 4000


class Cause(StrEnum):
    """Why a request failed, for metrics, traces and logs (docs/telemetry.md has a sentence each)."""

    BAD_REQUEST = "bad_request"
    CONTEXT = "context_exceeded"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD = "method"
    SLOW_CALLER = "slow_caller"
    TOO_LARGE = "too_large"
    CODING = "unsupported_coding"
    LEFT = "left"
    UNUSABLE = "unusable_model"
    QUEUE_FULL = "queue_full"
    RATE = "rate_limited"
    OVERLOADED = "overloaded"
    DRAINING = "draining"
    STARTING = "starting"
    PRESSURE = "pressure"
    DEADLINE = "deadline"
    RUNTIME = "runtime"
    FAULT = "fault"


class ServingError(Exception):
    """Base; ``status`` is the HTTP status that every protocol here answers with."""

    status = 500
    cause = Cause.RUNTIME

    def __init__(self, text: str, *, field: str | None = None) -> None:
        self.text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
        super().__init__(self.text)
        self.field = field


class BadRequest(ServingError):
    """The caller's request is wrong; ``field`` names the part."""

    status = 400
    cause = Cause.BAD_REQUEST


class ContextExceeded(BadRequest):
    """The prompt is longer than the model's context; another model may hold it."""

    cause = Cause.CONTEXT


class NotFound(ServingError):
    """No such model or version."""

    status = 404
    cause = Cause.NOT_FOUND


class TimedOut(ServingError):
    """The caller sends too slowly."""

    status = 408
    cause = Cause.SLOW_CALLER


class UnsupportedCoding(ServingError):
    """The request's body is compressed in a way that is not known here."""

    status = 415
    cause = Cause.CODING


class Gone(ServingError):
    """The caller has hung up; nobody reads the answer. The status is nginx's, for logs and metrics."""

    status = 499
    cause = Cause.LEFT


class TooLarge(ServingError):
    """The request's body is larger than the limit."""

    status = 413
    cause = Cause.TOO_LARGE


class Unusable(ServingError):
    """A model cannot be loaded, or its golden inputs are answered wrongly: ``code`` tells. ``where`` is its folder."""

    status = 422
    cause = Cause.UNUSABLE

    def __init__(self, code: str, text: str, *, where: Path | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.where = where


class Overloaded(ServingError):
    """No room now; worth another try after ``retry_after_s`` seconds."""

    status = 503
    cause = Cause.OVERLOADED

    def __init__(self, text: str, *, retry_after_s: int = 1) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class Draining(Overloaded):
    """An operator, or the process's end, lets no new requests in."""

    cause = Cause.DRAINING


class UnderPressure(Overloaded):
    """The board is hot, short of memory or of volts, and spared (``hedgerow.server.degradation``)."""

    cause = Cause.PRESSURE


class Starting(Overloaded):
    """No model is in service yet."""

    cause = Cause.STARTING


class Busy(Overloaded):
    """As many requests wait as may; whoever comes now is sent away for ``retry_after_s`` seconds."""

    status = 429
    cause = Cause.QUEUE_FULL


class RateLimited(Busy):
    """This client has asked more than it may; others are served."""

    cause = Cause.RATE


class DeadlineExceeded(ServingError):
    """The time is over within which the answer was wanted; its work is dropped."""

    status = 504
    cause = Cause.DEADLINE


_BY_STATUS = {
    **{kind.status: kind.cause for kind in (BadRequest, NotFound, TimedOut, UnsupportedCoding, Gone, TooLarge)},
    **{kind.status: kind.cause for kind in (Unusable, Overloaded, Busy, DeadlineExceeded)},
    403: Cause.FORBIDDEN,
    405: Cause.METHOD,
}


def cause_of(status: int) -> Cause:
    """Why a request failed of which only the status is known."""
    return _BY_STATUS.get(status, Cause.FAULT)
