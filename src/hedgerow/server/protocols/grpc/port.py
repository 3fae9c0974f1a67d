"""A port that speaks gRPC: bound, perhaps with mutual TLS, started and stopped with the process.

gRPC has its own TLS. What Python's binding of it cannot be told is made good here, call by call: TLS below 1.3 is
turned away, and a certificate that has ended or was revoked meanwhile, so that neither a resumed session nor one that
stands outlives it. A call that runs for a certificate when it is revoked is cancelled; the connection, which the
binding does not show, can then do nothing and is closed once it has been idle for ``_IDLE_MS``.
"""

from __future__ import annotations

import asyncio
import weakref
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import grpc

from hedgerow.errors import MachineError
from hedgerow.server.access import allowed
from hedgerow.server.admission import chain_of
from hedgerow.server.config import Address
from hedgerow.server.protocols.grpc.service import Service
from hedgerow.server.sockets import listen
from hedgerow.server.tls import peer_of

if TYPE_CHECKING:
    from hedgerow.server.admission import Admission
    from hedgerow.server.config import Limits
    from hedgerow.server.dataplane import DataPlane
    from hedgerow.server.tls import Files, ServerTls

    Context = grpc.aio.ServicerContext[Any, Any]

# Streams count as one each; every one may hold a message of the largest size.
_CALLS: Final = 256
_HANDSHAKE_MS: Final = 20_000
# A stream to a caller that vanished without a word ends after both.
_KEEPALIVE_MS: Final = 30_000
_KEEPALIVE_ANSWER_MS: Final = 10_000
# Only where certificates can be revoked: a caller that is let in opens another connection when it has a call.
_IDLE_MS: Final = 45_000
_TLS: Final = b"TLSv1.3"


class GrpcPort:
    """Serves ``plane`` on ``address``. To be made and used on the event loop that serves.

    Raises:
        MachineError: the port is taken or not allowed.
    """

    def __init__(
        self, plane: DataPlane, address: Address, limits: Limits, tls: ServerTls | None, guard: Guard | None
    ) -> None:
        self.tls = tls
        self._address = address
        self._limits = limits
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=_CALLS,
            options=[
                # Else a second server would share the port, and each would get half of the calls.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", limits.body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
                ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", _KEEPALIVE_ANSWER_MS),
                *([] if tls is None or tls.admission is None else [("grpc.max_connection_idle_ms", _IDLE_MS)]),
            ],
        )
        self._service = (
            Service(plane, limits) if guard is None else Service(plane, limits, guard=guard.check, ended=guard.ended)
        )
        self._server.add_generic_rpc_handlers((self._service.handler(),))
        self.port = self._bind(address, tls)

    def __str__(self) -> str:
        return f"{'grpc' if self.tls is None else 'grpcs'}://{Address(self._address.address, self.port)}"

    async def start(self) -> None:
        """Take calls."""
        await self._server.start()

    async def stop(self) -> None:
        """Take no more calls; those that run may take ``drain_s`` seconds."""
        self._service.stop()
        await self._server.stop(self._limits.drain_s)

    def _bind(self, address: Address, tls: ServerTls | None) -> int:
        try:
            if tls is None:
                return self._server.add_insecure_port(str(address))
            return self._server.add_secure_port(str(address), _credentials(tls))
        except RuntimeError as error:
            listen(address).close()  # says what is wrong, where gRPC does not
            raise MachineError(f"cannot listen: {error}", where=str(address)) from error


class Guard:
    """Ends calls of those whose certificate does not allow them, or was revoked."""

    def __init__(self, *, fleet: str, site: str, admission: Admission | None = None) -> None:
        self._fleet = fleet
        self._site = site
        self._admission = admission
        self._ended: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

    def ended(self) -> bool:
        """Whether the call that asks was cancelled because its certificate was revoked."""
        return asyncio.current_task() in self._ended

    async def check(self, context: Context, path: str) -> None:
        """Let the call go on if its caller may call what REST has at ``path``."""
        shown = context.auth_context()
        # Mutual TLS has verified one, or there would be no call.
        (pem,) = shown["x509_pem_cert"]
        found, ends = peer_of(pem)
        if tuple(shown.get("ssl_tls_version", ())) != (_TLS,):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "TLS 1.3 is wanted")
        if ends <= datetime.now(UTC):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"the certificate ended {ends}")
        if not allowed(found, path, fleet=self._fleet, site=self._site):
            who = "no certificate of this fleet" if found is None else f"profile {found.profile.value}"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{who} may not call {path}")
        call, admission = asyncio.current_task(), self._admission
        if admission is not None and call is not None:

            def end() -> None:
                self._ended.add(call)
                call.cancel()

            if not admission.enter(chain_of((pem, *shown.get("x509_pem_cert_chain", ()))), end):
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the certificate was revoked")
            call.add_done_callback(lambda _: admission.leave(end))


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Certificate and CA as they are at each handshake: connections that stand stay up."""
    given = tls.files

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        if tls.files is given:
            return None
        given = tls.files
        return _configuration(given)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given),
        renewed,  # type: ignore[arg-type] # None is its word for "as before"
        require_client_authentication=True,
    )


def _configuration(files: Files) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(files.key, files.certificate)], files.client_ca)
