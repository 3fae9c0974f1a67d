"""Who makes a call: its metadata, as HTTP has headers, and the certificate that mutual TLS has verified."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from hedgerow.server.protocols import elsewhere
from hedgerow.server.telemetry.caller import CALLER, Caller, identify
from hedgerow.server.tls import peer_of

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]

_METADATA: Final[ContextVar[Mapping[str, str] | None]] = ContextVar("metadata", default=None)


def identified(context: Context) -> Caller:
    """The caller, known from here on to all that is done for the call: each call is a task of its own."""
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    shown = tuple(context.auth_context().get("x509_pem_cert", ()))
    caller = identify(metadata.get, peer_of(shown[0])[0] if shown else None)
    CALLER.set(caller)
    _METADATA.set(metadata)
    return caller


def device_only() -> bool:
    """Whether the caller of this call wants no other machine to answer: metadata, named as HTTP's header.

    Raises:
        BadRequest: it wants something else by that name.
    """
    return elsewhere.device_only((_METADATA.get() or {}).get)
