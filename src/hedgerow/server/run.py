"""One process: HTTP and gRPC, plain on loopback, mutual TLS outside; the control socket; signals; notifications.

- SIGTERM and SIGINT drain: ready turns false, running requests end (bounded), then the process exits with 0.
- SIGHUP reads certificate, key and CA again; connections that run stay up.
- A device whose model cannot be loaded stays up, not ready, and says why in its report. A workstation gives up.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop

from hedgerow.device.notify import notify
from hedgerow.errors import HedgerowError, MachineError, UsageError
from hedgerow.server import memory, systemd
from hedgerow.server.access import ByProfile
from hedgerow.server.computing import Computing
from hedgerow.server.config import Address, Limits, ServerConfig, Tls, credential
from hedgerow.server.dataplane import DataPlane
from hedgerow.server.errors import ServingError, Unusable
from hedgerow.server.observe import Observer, readings
from hedgerow.server.protocols import control, health, oip, oip_generate, oip_repository, openai
from hedgerow.server.protocols.application import Application
from hedgerow.server.protocols.openapi import published
from hedgerow.server.repository import Repository
from hedgerow.server.restarts import Restarts
from hedgerow.server.sockets import listen, listen_unix
from hedgerow.server.telemetry.config import Telemetry as TelemetryConfig
from hedgerow.server.telemetry.door import Door
from hedgerow.server.telemetry.service import Telemetry, resource
from hedgerow.server.tls import ServerTls
from hedgerow.server.web import Listener
from hedgerow.server.web import Server as _Server
from hedgerow.server.web import uvicorn_config as _uvicorn_config

if TYPE_CHECKING:
    from datetime import datetime

    from starlette.routing import Route

    from hedgerow.device.health import Code
    from hedgerow.server.admission import Admission
    from hedgerow.server.fallback.service import Fallback
    from hedgerow.server.isolation.nursery import Nursery
    from hedgerow.server.protocols.grpc.port import GrpcPort
    from hedgerow.server.residency import Rules

log = logging.getLogger("hedgerow.server")
# How many more objects there must be before the collector looks for those that only hold each other.
_OBJECTS: Final = 10_000


@dataclass(frozen=True)
class Service:
    """All that one process serves. ``load`` runs once the listeners answer: probes are told "not ready" meanwhile."""

    plane: DataPlane
    listeners: list[Listener]
    load: Callable[[], Awaitable[None]]
    limits: Limits
    grpc: list[GrpcPort]
    telemetry: Telemetry


def serve_device(config: ServerConfig, version: str | None = None, *, nursery: Nursery | None = None) -> None:
    """Serve as ``/etc/hedgerow/server.yml`` says, until SIGTERM. ``version`` is the configuration's, to be told.

    ``nursery``: where the model's process comes from, if it is to have one.

    Raises:
        UsageError, MachineError: before anything is served.
    """
    computing = _computing(Computing(config.threads, config.providers, nursery), where="providers")
    tls, grpc_tls = _server_tls(config.https), _server_tls(config.grpcs)
    restarts = None if config.control_socket is None else Restarts(config.control_socket.parent)

    def service() -> Service:
        plane = DataPlane(
            config.models_dir,
            model=config.model,
            limits=config.limits,
            computing=computing,
            batching=config.batching.policy,
            degradation=config.degradation,
        )
        observer = Observer(
            plane,
            host=config.host,
            serial=config.serial,
            model=config.model,
            models_dir=config.models_dir,
            activation_dir=config.activation_dir,
            certificate_ends=lambda: min((each.expires for each in (tls, grpc_tls) if each is not None), default=None),
            revocation_outdated=lambda: _revocation_outdated(tls, grpc_tls),
            restarts=lambda: None if restarts is None else restarts.count,
            heartbeat_file=config.heartbeat,
            applications_file=config.applications,
            configuration=version,
        )
        plane.fallback = _fallback(config, plane, observer)
        listeners = _device_listeners(config, plane, observer, tls)
        grpc = _device_grpc(config, plane, grpc_tls)
        if restarts is not None:  # not before: a second server that finds the ports taken must not count
            restarts.begin()

        async def load() -> None:
            if not await plane.open_current():
                missing = f"no version is active: no model at {config.models_dir / config.model / 'current'}"
                log.warning("%s: %s", config.model, plane.error(config.model) or missing)

        plane.metrics.started(runtime=observer.runtime, configuration=version, restarts=observer.restarts)
        told = resource(host=config.host, site=config.site, fleet=config.fleet, serial=config.serial)
        telemetry = Telemetry(config.telemetry, plane.recorder, plane.metrics, told)
        return Service(plane, listeners, load, config.limits, grpc, telemetry)

    _run(service)
    if restarts is not None:
        restarts.end()


def serve_folder(
    repository: Path,
    http: Address,
    limits: Limits,
    *,
    grpc: Address | None = None,
    residency: Rules | None = None,
    computing: Computing | None = None,
) -> None:
    """Serve every model of ``repository`` on loopback, until SIGTERM; gRPC where it has an address.

    With ``residency`` models are loaded when they are asked for, and the pinned ones now.

    Raises:
        UsageError, MachineError: nothing is served: no model, a model that cannot be loaded, a port that is taken.
    """
    names = Repository(repository).required()
    computing = None if computing is None else _computing(computing, where="--provider")
    unknown = sorted(set() if residency is None else residency.pins - set(names))
    if unknown:
        raise UsageError(
            f"no model {unknown[0]} in {repository}", where="--pin", next_step=f"there: {', '.join(names)}"
        )

    def service() -> Service:
        plane = DataPlane(repository, limits=limits, residency=residency, computing=computing)
        observer = Observer(
            plane,
            host=socket.gethostname(),
            serial="",
            model=names[0],
            models_dir=repository,
            activation_dir=repository,
        )

        async def load() -> None:
            try:
                await plane.open_repository()
            except Unusable as error:
                raise MachineError(error.text, where=str(error.where or repository)) from error
            except ServingError as error:
                raise MachineError(
                    error.text, where=str(repository), next_step="pin fewer, or raise the budget"
                ) from error

        app = Application(_public_routes(plane, observer, limits))
        listeners = [Listener(listen(http), app)]
        plane.metrics.started(runtime=observer.runtime, configuration=None, restarts=observer.restarts)
        telemetry = Telemetry(TelemetryConfig(), plane.recorder, plane.metrics, {})
        ports = [] if grpc is None else [_grpc_port(plane, grpc, limits)]
        return Service(plane, listeners, load, limits, ports, telemetry)

    _run(service)


def _computing(computing: Computing, *, where: str) -> Computing:
    """``computing``, if it can be obeyed: nothing is served on a misspelled provider's CPU."""
    if computing.providers:
        # It takes 20 MB; a server without a model need not have it.
        from hedgerow.server.backends import providers

        providers.check(computing.providers, where=where)
    return computing


def _fallback(config: ServerConfig, plane: DataPlane, observer: Observer) -> Fallback | None:
    """The way out, where there is one. What keeps it shut does not keep the device from answering."""
    if config.fallback is None:
        return None
    # httpx takes 15 MB; whoever lets nothing leave does not pay for it.
    from hedgerow.server.fallback.service import Fallback

    async def health() -> frozenset[Code]:
        return frozenset(reason.code for reason in (await observer.report()).reasons)

    try:
        return Fallback.open(config.fallback, plane.metrics, health=health)
    except HedgerowError as error:
        log.error("nothing leaves the device: %s", error)  # noqa: TRY400 - the message is complete
        return None


def _device_listeners(
    config: ServerConfig, plane: DataPlane, observer: Observer, tls: ServerTls | None
) -> list[Listener]:
    app = Application(_public_routes(plane, observer, config.limits))
    listeners: list[Listener] = []
    if config.http is not None:
        listeners.append(Listener(listen(config.http), app))
    if config.https is not None:
        guarded = ByProfile(app, fleet=config.fleet, site=config.site)
        listeners.append(Listener(listen(config.https.listen), guarded, tls))
    if config.control_socket is not None:
        # The applications' routes, too: so the device's agent asks what they ask, without a network.
        routes = [*_public_routes(plane, observer, config.limits), *control.routes(plane, config.model, observer)]
        listeners.append(Listener(listen_unix(config.control_socket), Application(routes), path=config.control_socket))
    return listeners


def _device_grpc(config: ServerConfig, plane: DataPlane, tls: ServerTls | None) -> list[GrpcPort]:
    ports: list[GrpcPort] = []
    if config.grpc is not None:
        ports.append(_grpc_port(plane, config.grpc, config.limits))
    if config.grpcs is not None and tls is not None:
        guard = (config.fleet, config.site)
        ports.append(_grpc_port(plane, config.grpcs.listen, config.limits, tls, guard))
    return ports


def _grpc_port(
    plane: DataPlane,
    address: Address,
    limits: Limits,
    tls: ServerTls | None = None,
    only: tuple[str, str] | None = None,
) -> GrpcPort:
    """``only``: fleet and site whose certificates are let in."""
    # gRPC takes 15 MB and 0.2 s on a Pi; whoever does not serve it does not pay for it.
    from hedgerow.server.protocols.grpc.port import GrpcPort, Guard

    admission = None if tls is None else tls.admission
    guard = None if only is None else Guard(fleet=only[0], site=only[1], admission=admission)
    return GrpcPort(plane, address, limits, tls, guard)


def _revocation_outdated(*doors: ServerTls | None) -> datetime | None:
    """Since when a list of revoked certificates that a door goes by is out of date."""
    files = [door.admission.file for door in doors if door is not None and door.admission is not None]
    return min((since for file in files if (since := file.outdated()) is not None), default=None)


def _server_tls(config: Tls | None) -> ServerTls | None:
    if config is None:
        return None
    return ServerTls(*(credential(name) for name in (config.certificate, config.key, config.client_ca)), crl=config.crl)


def _public_routes(plane: DataPlane, observer: Observer, limits: Limits) -> list[Route]:
    """What all doors serve; the control routes are not among them. They are tried in turn: the busiest come first."""
    routes = [
        *oip.routes(plane, limits),
        *openai.routes(plane, limits),
        *health.routes(plane, observer),
        *oip_repository.routes(plane),
        *oip_generate.routes(plane, limits),
    ]
    # Of two that a path fits, the first is asked: a model's own would hide ``/v2/models/stats``.
    routes.sort(key=lambda each: each.path == "/v2/models/{model}")
    return [*routes, published(routes)]


def _run(service: Callable[[], Service]) -> None:
    memory.settle()

    async def main() -> None:
        await _serve(service())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def _serve(service: Service) -> None:
    # What is there now stays; the collector need not walk through it again and again. Not later: models may go.
    gc.collect()
    gc.freeze()
    # Over HTTP a request leaves none that refer to each other, over gRPC four small ones of the library's. Looking for
    # them after each 700 objects took 3 % of a small one's time.
    gc.set_threshold(_OBJECTS)
    listeners = [_told_of(listener, service.plane) for listener in service.listeners]
    servers = [_Server(_uvicorn_config(listener, service.limits)) for listener in listeners]
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, service)
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener.socket]))
        for server, listener in zip(servers, service.listeners, strict=True)
    ]
    for port in service.grpc:
        await port.start()
    log.info("listening on %s", ", ".join(map(str, (*service.listeners, *service.grpc))))
    alive = asyncio.create_task(systemd.keep_alive())
    watching = asyncio.create_task(service.plane.degradation.watch(readings))
    admissions = [asyncio.create_task(each.watch()) for each in _admissions(service)]
    stopped = asyncio.create_task(stopping.wait())
    loading = asyncio.ensure_future(service.load())
    try:
        await asyncio.wait((loading, stopped, *tasks), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            notify("READY=1")
            await asyncio.wait((stopped, *tasks), return_when=asyncio.FIRST_COMPLETED)
    finally:
        notify("STOPPING=1")
        service.plane.stopping = True
        for server in servers:
            server.should_exit = True
        ended = await asyncio.gather(*tasks, *(port.stop() for port in service.grpc), return_exceptions=True)
        for task in (loading, stopped, alive, watching, *admissions):
            task.cancel()
        await service.plane.close()
        await asyncio.to_thread(service.telemetry.close)
        for listener in service.listeners:
            if listener.path is not None:
                listener.path.unlink(missing_ok=True)
    for problem in ended:
        if isinstance(problem, BaseException):
            raise problem


def _told_of(listener: Listener, plane: DataPlane) -> Listener:
    """The same, with each call's caller known, and its refusals told of."""
    return dataclasses.replace(listener, app=Door(listener.app, plane.recorder.refused))


def _admissions(service: Service) -> list[Admission]:
    ports: list[Listener | GrpcPort] = [*service.listeners, *service.grpc]
    return [each.tls.admission for each in ports if each.tls is not None and each.tls.admission is not None]


def _reload(service: Service) -> None:
    if service.plane.fallback is not None:
        try:
            service.plane.fallback.reload()
        except HedgerowError as error:
            log.error("%s", error)  # noqa: TRY400 - the message is complete
    ports: list[Listener | GrpcPort] = [*service.listeners, *service.grpc]
    for each in ports:
        if each.tls is not None:
            try:
                each.tls.reload()
                log.info("%s: certificate read again; it ends %s", each, each.tls.expires)
            except HedgerowError as error:
                log.error("%s", error)  # noqa: TRY400 - the message is complete
