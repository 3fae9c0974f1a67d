"""What goes wrong while serving, by whose fault it is. Protocol adapters turn these into their own shapes."""

from __future__ import annotations

from pathlib import Path

# What an error quotes may be as long as a request: nobody reads more, and journals and clients bound it.
_LONGEST = 4000


class ServingError(Exception):
    """Base; ``status`` is the HTTP status that every protocol here answers with."""

    status = 500

    def __init__(self, text: str, *, field: str | None = None) -> None:
        self.text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
        super().__init__(self.text)
        self.field = field


class BadRequest(ServingError):
    """The caller's request is wrong; ``field`` names the part."""

    status = 400


class NotFound(ServingError):
    """No such model or version."""

    status = 404


class TimedOut(ServingError):
    """The caller sends too slowly."""

    status = 408


class UnsupportedCoding(ServingError):
    """The request's body is compressed in a way that is not known here."""

    status = 415


class Gone(ServingError):
    """The caller has hung up; nobody reads the answer. The status is nginx's, for logs and metrics."""

    status = 499


class TooLarge(ServingError):
    """The request's body is larger than the limit."""

    status = 413


class Unusable(ServingError):
    """A model cannot be loaded, or its golden inputs are answered wrongly: ``code`` tells. ``where`` is its folder."""

    status = 422

    def __init__(self, code: str, text: str, *, where: Path | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.where = where


class Overloaded(ServingError):
    """No room now; worth another try after ``retry_after_s`` seconds."""

    status = 503

    def __init__(self, text: str, *, retry_after_s: int = 1) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class Busy(Overloaded):
    """As many requests wait as may; whoever comes now is sent away for ``retry_after_s`` seconds."""

    status = 429


class DeadlineExceeded(ServingError):
    """The time is over within which the answer was wanted; its work is dropped."""

    status = 504
