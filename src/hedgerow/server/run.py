"""One process: plain HTTP on loopback, mutual TLS outside, the control socket; signals; systemd's notifications.

- SIGTERM and SIGINT drain: ready turns false, running requests end (bounded), then the process exits with 0.
- SIGHUP reads certificate, key and CA again; connections that run stay up.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from hedgerow.errors import HedgerowError, MachineError
from hedgerow.server.access import ByProfile
from hedgerow.server.config import Address, Limits, ServerConfig, credential
from hedgerow.server.dataplane import DataPlane
from hedgerow.server.errors import ServingError
from hedgerow.server.observe import Observer
from hedgerow.server.protocols import control, health, oip, openai
from hedgerow.server.protocols.http import json_response
from hedgerow.server.tls import PeerProtocol, ServerTls

if TYPE_CHECKING:
    from starlette.routing import Route
    from starlette.types import ASGIApp

log = logging.getLogger("hedgerow.server")
_BACKLOG = 512
_SOCKET_MODE = 0o660


@dataclass(frozen=True)
class Listener:
    """A bound socket, what answers there, TLS where it has any, and the path of a Unix socket."""

    socket: socket.socket
    app: ASGIApp
    tls: ServerTls | None = None
    path: Path | None = None


def application(routes: list[Route]) -> Starlette:
    """The routes, with errors of ours as JSON."""

    async def refused(_: Request, error: Exception) -> Response:
        status = error.status if isinstance(error, ServingError) else 500
        return json_response({"error": str(error)}, status=status)

    return Starlette(routes=routes, exception_handlers={ServingError: refused})


def public_routes(plane: DataPlane, observer: Observer, limits: Limits) -> list[Route]:
    """What both doors serve; the control routes are not among them."""
    return [*health.routes(plane, observer), *openai.routes(plane, limits), *oip.routes(plane, limits)]


def listen(address: Address) -> socket.socket:
    """Bind, without waiting for old connections of an earlier process to time out.

    Raises:
        MachineError: the port is taken or not allowed.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in address.address else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((address.address, address.port))
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        taken = error.errno == errno.EADDRINUSE
        raise MachineError(
            f"port {address.port} is taken" if taken else f"cannot listen: {error.strerror}",
            where=str(address),
            next_step=f"see who has it: ss -ltnp 'sport = :{address.port}'" if taken else None,
        ) from error
    bound.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return bound


def listen_unix(path: Path) -> socket.socket:
    """Bind the control socket, replacing one that an earlier process left behind.

    Raises:
        MachineError: its folder is missing or not ours, or another server answers on it.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket() and _answers(path):
            raise MachineError("another server has the control socket", where=str(path))
        path.unlink(missing_ok=True)
        bound.bind(str(path))
        path.chmod(_SOCKET_MODE)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise MachineError(
            f"cannot make the control socket: {error.strerror}",
            where=str(path),
            next_step="start the server by its unit, which makes the folder",
        ) from error
    bound.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return bound


def serve_device(config: ServerConfig) -> None:
    """Serve as ``/etc/hedgerow/server.yml`` says, until SIGTERM.

    Raises:
        UsageError, MachineError: before anything is served.
    """
    tls = None
    if config.https is not None:
        files = (credential(name) for name in (config.https.certificate, config.https.key, config.https.client_ca))
        tls = ServerTls(*files)
    plane = DataPlane(config.models_dir, limits=config.limits, threads=config.threads)
    observer = Observer(
        plane,
        host=config.host,
        serial=config.serial,
        model=config.model,
        models_dir=config.models_dir,
        activation_dir=config.activation_dir,
        certificate_ends=lambda: None if tls is None else tls.expires,
    )
    app = application(public_routes(plane, observer, config.limits))
    listeners: list[Listener] = []
    if config.http is not None:
        listeners.append(Listener(listen(config.http), app))
    if config.https is not None:
        guarded = ByProfile(app, fleet=config.fleet, site=config.site)
        listeners.append(Listener(listen(config.https.listen), guarded, tls))
    if config.control_socket is not None:
        routes = [*health.routes(plane, observer), *control.routes(plane, config.model)]
        listeners.append(Listener(listen_unix(config.control_socket), application(routes), path=config.control_socket))

    async def load() -> None:
        if not await plane.open_current(config.model):
            log.warning("%s: %s", config.model, plane.error(config.model) or "no version is active on this device")

    asyncio.run(_serve(plane, listeners, load, config.limits))


def serve_folder(repository: Path, http: Address, limits: Limits) -> None:
    """Serve every model of ``repository`` on loopback.

    Raises:
        UsageError, MachineError: before anything is served.
    """
    models = find_models(repository)
    plane = DataPlane(repository, limits=limits)
    name = models[0][0] if models else ""
    observer = Observer(
        plane, host=socket.gethostname(), serial="", model=name, models_dir=repository, activation_dir=repository
    )
    app = application(public_routes(plane, observer, limits))
    listeners = [Listener(listen(http), app)]

    async def load() -> None:
        for model, folder in models:
            try:
                await plane.open_folder(model, folder)
            except ServingError as error:
                raise MachineError(f"{model} cannot be served: {error.text}", where=str(folder)) from error
            log.info("%s serves %s", model, folder)

    asyncio.run(_serve(plane, listeners, load, limits))


def find_models(repository: Path) -> list[tuple[str, Path]]:
    """``(name, folder)`` of each model: its ``current``, else its newest version, else a folder without versions.

    A repository that is itself one model's folder is served under its own name.

    Raises:
        MachineError: there is none.
    """
    from hedgerow.registry.reference import version_key

    if _is_model(repository):
        return [(repository.resolve().name, repository)]
    found: list[tuple[str, Path]] = []
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        versions = [path for path in folder.iterdir() if path.is_dir() and _is_model(path)]
        if _is_model(folder / "current"):
            found.append((folder.name, folder / "current"))
        elif versions:
            found.append((folder.name, max(versions, key=lambda path: _order(path.name, version_key))))
        elif _is_model(folder):
            found.append((folder.name, folder))
    if not found:
        raise MachineError(
            "no model here",
            where=str(repository),
            next_step="name a folder that holds NAME/VERSION/model.onnx or NAME/VERSION/genai_config.json",
        )
    return found


async def _serve(plane: DataPlane, listeners: list[Listener], load: object, limits: Limits) -> None:
    servers = [_Server(_uvicorn_config(listener, limits)) for listener in listeners]
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, listeners)
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener.socket]))
        for server, listener in zip(servers, listeners, strict=True)
    ]
    loading = asyncio.create_task(load())  # type: ignore[operator]
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((loading, stopped, *tasks), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            notify("READY=1")
            await asyncio.wait((stopped, *tasks), return_when=asyncio.FIRST_COMPLETED)
    finally:
        notify("STOPPING=1")
        plane.draining = True
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in (loading, stopped):
            task.cancel()
        await plane.close()
        for listener in listeners:
            if listener.path is not None:
                listener.path.unlink(missing_ok=True)


class _Server(uvicorn.Server):
    """Several of these share a loop, so none may take the signals for itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _uvicorn_config(listener: Listener, limits: Limits) -> uvicorn.Config:
    tls = listener.tls
    return uvicorn.Config(
        listener.app,
        http=PeerProtocol if tls is not None else "httptools",
        ssl_context_factory=None if tls is None else lambda *_: tls.context,
        loop="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=int(limits.drain_s),
    )


def _reload(listeners: list[Listener]) -> None:
    for listener in listeners:
        if listener.tls is not None:
            try:
                listener.tls.reload()
                log.info("certificate read again; it ends %s", listener.tls.expires)
            except HedgerowError as error:
                log.error("%s", error)  # noqa: TRY400 - the message is complete


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing without ``$NOTIFY_SOCKET``."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect(address)
        channel.sendall(state.encode())


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def _is_model(folder: Path) -> bool:
    return (folder / "genai_config.json").is_file() or len(list(folder.glob("*.onnx"))) == 1


def _order(name: str, version_key: object) -> tuple[object, ...]:
    try:
        return (1, version_key(name))  # type: ignore[operator]
    except ValueError:
        return (0, name)
