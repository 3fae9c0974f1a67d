"""What goes wrong while serving, by whose fault it is. Protocol adapters turn these into their own shapes."""

from __future__ import annotations


class ServingError(Exception):
    """Base; ``status`` is the HTTP status that every protocol here answers with."""

    status = 500

    def __init__(self, text: str, *, field: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.field = field


class BadRequest(ServingError):
    """The caller's request is wrong; ``field`` names the part."""

    status = 400


class NotFound(ServingError):
    """No such model or version."""

    status = 404


class Gone(ServingError):
    """The caller has hung up; nobody reads the answer. The status is nginx's, for logs and metrics."""

    status = 499


class TooLarge(ServingError):
    """The request's body is larger than the limit."""

    status = 413


class Unusable(ServingError):
    """A model cannot be loaded, or its golden inputs are answered wrongly; ``code`` tells which."""

    status = 422

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Overloaded(ServingError):
    """No room now; worth another try after ``retry_after_s`` seconds."""

    status = 503

    def __init__(self, text: str, *, retry_after_s: int = 1) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class Draining(Overloaded):
    """An operator, or the process's end, lets no new requests in."""


class Starting(Overloaded):
    """No model is in service yet."""
