"""Who makes a call: its metadata, as HTTP has headers, and the certificate that mutual TLS has verified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hedgerow.server.telemetry.caller import CALLER, Caller, identify
from hedgerow.server.tls import peer_of

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]


def identified(context: Context) -> Caller:
    """The caller, known from here on to all that is done for the call: each call is a task of its own."""
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    shown = tuple(context.auth_context().get("x509_pem_cert", ()))
    caller = identify(metadata.get, peer_of(shown[0])[0] if shown else None)
    CALLER.set(caller)
    return caller
