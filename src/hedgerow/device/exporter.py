"""Metrics of the board and its HAT on port 9101, over mutual TLS (docs/contracts.md, "Metrics").

- A verified chain lets a client in; its profile decides (``hedgerow.identity.profiles``): who may observe may scrape.
- The NPU is asked in the background every ``HAT_INTERVAL_S``: a chip that is busy never holds up a scrape.
- One connection, one scrape: nothing outlives the certificate that opened it, and no revoked one gets an answer.
"""

from __future__ import annotations

import errno
import http.server
import os
import signal
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from hedgerow.device.metrics import Board, DeviceCollector
from hedgerow.device.notify import notify
from hedgerow.device.store.layout import Layout
from hedgerow.device.vision_metrics import VisionCollector
from hedgerow.errors import MachineError
from hedgerow.identity import profiles, tls
from hedgerow.identity.crlfile import CrlFile
from hedgerow.identity.revoked import Chain, certificates, verified_chain

PORT = 9101
IDENTITY = Path("/var/lib/hedgerow/identity")
HAT_INTERVAL_S = 60.0
_CONNECTION_TIMEOUT_S = 10.0
_MAXIMUM_CONNECTIONS = 8


class Device(Protocol):
    """What the exporter must know of its device; ``hedgerow.device.config.DeviceConfig`` has it."""

    @property
    def fleet(self) -> str: ...
    @property
    def site(self) -> str: ...
    @property
    def models_dir(self) -> Path: ...


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Takes a connection in the main thread, shakes hands in the connection's own: a slow client holds up nobody."""

    daemon_threads = True
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def __init__(
        self,
        port: int,
        device: Device,
        context: ssl.SSLContext,
        registry: CollectorRegistry,
        *,
        anchors: Chain,
        revoked: CrlFile,
    ) -> None:
        self.device = device
        self.registry = registry
        self._context = context
        self._anchors = anchors
        self._revoked = revoked
        self._looking = threading.Lock()
        self._free = threading.BoundedSemaphore(_MAXIMUM_CONNECTIONS)
        super().__init__(("", port), _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)  # HTTPServer's own asks the DNS for this host's name

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            _say(f"refused {client_address[0]}: {_MAXIMUM_CONNECTIONS} connections are open")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(_CONNECTION_TIMEOUT_S)
        with self._context.wrap_socket(request, server_side=True) as connection:
            if self._admits(connection):
                _Handler(connection, client_address, self)
            else:
                _say(f"refused {client_address[0]}: its certificate was revoked")

    def _admits(self, connection: ssl.SSLSocket) -> bool:
        """Whether no certificate of the caller's chain was revoked, as the file of lists says now."""
        with self._looking:
            problem = self._revoked.problem
            self._revoked.look()
            if self._revoked.problem not in {None, problem}:
                _say(f"revoked certificates: {self._revoked.problem}")
            lists = self._revoked.lists
        return not lists.lists or lists.revoked(verified_chain(connection), self._anchors) is None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line for the journal; a traceback for what is a fault of ours."""
        error = sys.exception()
        if not isinstance(error, OSError):  # ssl.SSLError and timeouts are OSErrors
            super().handle_error(request, client_address)
            return
        _say(f"refused {client_address[0]}: {getattr(error, 'verify_message', None) or error}")


class _Handler(http.server.BaseHTTPRequestHandler):
    """``GET /metrics``."""

    server: _Server
    server_version = "hedgerow-exporter"
    sys_version = ""

    def do_GET(self) -> None:
        caller = profiles.peer(self.connection.getpeercert())
        device = self.server.device
        if caller is None or caller.fleet != device.fleet or not caller.may(profiles.Right.OBSERVE, site=device.site):
            who = "nobody of this fleet" if caller is None else f"{caller.profile.value} {caller.name}"
            self._answer(403, f"{who} may not read metrics here (certificate profiles, docs/contracts.md)\n".encode())
            _say(f"refused {self.client_address[0]}: {who}")
        elif self.path.partition("?")[0] == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, encode(self.server.registry), content_type)
        else:
            self._answer(404, b"there is /metrics here\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Nothing: a line for every scrape would fill the journal. Refusals are logged where they happen."""

    def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def listen(
    device: Device,
    *,
    credentials: Path,
    board: Board,
    port: int = PORT,
    crl: Path = tls.CRL,
    vision: VisionCollector | None = None,
) -> Iterator[_Server]:
    """Yield a bound server; the caller runs ``serve_forever``. ``crl``: where revoked certificates are listed, if any.

    ``vision``: tells what the device's cameras have counted; None where it has none.

    Raises:
        MachineError: the port is taken.
        DeviceError: certificate or key cannot be used.
    """
    context = tls.server_context(credentials)
    registry = CollectorRegistry()
    registry.register(DeviceCollector(board, credentials / "device.crt", store=Layout(device.models_dir).written))
    if vision is not None:
        registry.register(vision)
    anchors = certificates((credentials / "ca.crt").read_bytes())
    try:
        server = _Server(port, device, context, registry, anchors=anchors, revoked=CrlFile(crl))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise MachineError(
            "the exporter's port is taken by another program",
            where=f"port {port}",
            next_step=f"find it: ss -ltnp 'sport = :{port}'",
        ) from error
    with server:
        yield server


def serve(device: Device, *, port: int = PORT, vision: bool = False) -> None:
    """Serve until SIGTERM. Certificate and key come from ``$CREDENTIALS_DIRECTORY``, else from the identity folder.

    ``vision``: the device has cameras whose metrics are told, too.
    """
    board = Board()
    credentials = Path(os.environ.get("CREDENTIALS_DIRECTORY", IDENTITY))

    # A pipe, which keeps what comes before somebody waits: pause() would miss it. Nor an Event: its lock may be held by
    # the very wait that is interrupted.
    asked_to_end, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: None)
    cameras = VisionCollector() if vision else None
    with listen(device, credentials=credentials, board=board, port=port, vision=cameras) as server:
        threading.Thread(target=server.serve_forever, name="serve", daemon=True).start()
        threading.Thread(target=_keep_asking, args=(board,), name="hat", daemon=True).start()
        notify("READY=1")
        os.read(asked_to_end, 1)
        server.shutdown()


def _keep_asking(board: Board) -> None:
    while True:
        board.refresh()
        time.sleep(HAT_INTERVAL_S)


def _say(line: str) -> None:
    """One line for the journal."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
