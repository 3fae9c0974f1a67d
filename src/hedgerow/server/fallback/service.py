"""The routes of one server: opened before it serves, closed after the last request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Self

import msgspec

from hedgerow.errors import MachineError
from hedgerow.server.config import credential
from hedgerow.server.fallback import keys, ledger
from hedgerow.server.fallback.audit import Audit, Line
from hedgerow.server.fallback.breaker import Breaker
from hedgerow.server.fallback.cache import Cache
from hedgerow.server.fallback.endpoint import Endpoint
from hedgerow.server.fallback.ledger import Ledger
from hedgerow.server.fallback.rate import Rate
from hedgerow.server.fallback.remote import Files, Gate, Remote
from hedgerow.server.fallback.route import Route

if TYPE_CHECKING:
    from hedgerow.device.health import Code
    from hedgerow.server.fallback.config import EndpointConfig, FallbackConfig
    from hedgerow.server.metrics import Metrics

    Health = Callable[[], Awaitable[Collection[Code]]]

log = logging.getLogger("hedgerow.server.fallback")


class Fallback:
    """Used from one event loop; made by ``open``."""

    def __init__(self, routes: dict[str, Route], endpoints: list[Endpoint], files: Files) -> None:
        self._routes = routes
        self._endpoints = endpoints
        self._files = files

    @classmethod
    def open(cls, config: FallbackConfig, metrics: Metrics, *, health: Health) -> Self:
        """Read credentials, open what is kept on the disk, and write down what was cut off.

        Raises:
            MachineError, UsageError: nothing may leave; what is wrong.
        """
        files = _files(config)
        try:
            gates = {name: _gate(name, each) for name, each in config.endpoints.items()}
        except BaseException:
            _close(files)
            raise
        routes = {
            name: Route(
                policy, Remote(name, policy, gates[policy.endpoint], files, metrics, wall=time.time), health=health
            )
            for name, policy in config.models.items()
        }
        for name, gate in gates.items():
            metrics.fallback_open.labels(name).set(0)
            log.info("endpoint %s: %s", name, gate.endpoint.url)
        return cls(routes, [gate.endpoint for gate in gates.values()], files)

    def route(self, model: str) -> Route | None:
        """The model's way out, None where it has none."""
        return self._routes.get(model)

    def reload(self) -> None:
        """Read the certificates again.

        Raises:
            MachineError: some cannot be used; those that were loaded before stay in use.
        """
        for endpoint in self._endpoints:
            endpoint.reload()

    async def close(self) -> None:
        """Let go of endpoints and files, once all that left is written down."""
        for route in self._routes.values():
            await route.close()
        for endpoint in self._endpoints:
            await endpoint.close()
        await asyncio.to_thread(_close, self._files)


def _files(config: FallbackConfig) -> Files:
    folder = config.state_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = keys.load(folder)
        audit = Audit(folder)
        book = Ledger(folder)
        try:
            _write_down(book, audit)
            cache = None if config.cache is None else Cache(folder, own.seal, config.cache)
        except BaseException:
            book.close()
            raise
    except OSError as error:
        raise MachineError(
            f"the fallback's state cannot be kept: {error.strerror}",
            where=str(folder),
            next_step="let the server's unit have it: StateDirectory=hedgerow/fallback",
        ) from error
    return Files(own, book, audit, cache)


def _write_down(book: Ledger, audit: Audit) -> None:
    """Requests that were on their way when the server ended: they may have left, and cost what they could."""
    for reservation, departure in book.unsettled():
        audit.write(
            Line(
                **msgspec.structs.asdict(departure),
                outcome="interrupted",
                prompt_tokens=0,
                completion_tokens=0,
                cost=reservation.micros / ledger.MILLION,
                exact=False,
            )
        )
        book.settle(reservation, reservation.micros)


def _gate(name: str, config: EndpointConfig) -> Gate:
    endpoint = Endpoint(
        name,
        config,
        token=credential(config.token),
        certificate=credential(config.certificate),
        key=credential(config.key),
        ca=None if config.ca is None else credential(config.ca),
    )
    breaker = Breaker(failures=config.breaker.failures, open_s=config.breaker.open_s)
    return Gate(endpoint, breaker, Rate(config.requests_per_minute))


def _close(files: Files) -> None:
    files.ledger.close()
    if files.cache is not None:
        files.cache.close()
