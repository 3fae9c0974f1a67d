"""What went wrong, as gRPC says it."""

from __future__ import annotations

from typing import Final

import grpc

from hedgerow.server.errors import Overloaded, ServingError

_CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_DETAILS: Final = 2048
# gRPC's retry design (A6): for how long a client's retry policy holds back.
_PUSHBACK: Final = "grpc-retry-pushback-ms"


def code_of(error: ServingError) -> grpc.StatusCode:
    """The status code for an error of ours."""
    return _CODES.get(error.status, grpc.StatusCode.INTERNAL)


def details_of(error: ServingError) -> str:
    """Its text, as long as a client's bound on trailers (8 KiB by default) surely lets through.

    Past that bound gRPC's clients report RESOURCE_EXHAUSTED in place of the status. A byte may take three there.
    """
    return error.text.encode()[:_DETAILS].decode(errors="ignore")


def trailers_of(error: ServingError) -> tuple[tuple[str, str], ...]:
    """When another try may help, as clients' retry policies read it."""
    return ((_PUSHBACK, str(error.retry_after_s * 1000)),) if isinstance(error, Overloaded) else ()
