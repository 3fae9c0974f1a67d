"""The renewal service over HTTP: who may call what, and answers (docs/device-identity.md, "Renewal at the gateway").

TLS lets in whoever shows a certificate of the fleet that was not revoked, expired ones too (``run``). Invariants:

- An expired certificate reaches ``POST /identity/renew`` and nothing else.
- What no row names is for operators alone.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hedgerow.gateway.renewal.rules import Code, Refusal
from hedgerow.identity.profiles import DEVICE_PROFILES, Peer, Right
from hedgerow.identity.revoked import verified_chain
from hedgerow.server.access import PEER
from hedgerow.server.errors import BadRequest, NotFound
from hedgerow.server.protocols.application import Application
from hedgerow.server.protocols.http import body, json_response
from hedgerow.server.tls import PeerProtocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from hedgerow.gateway.renewal.config import RenewalConfig
    from hedgerow.gateway.renewal.lists import ServedLists
    from hedgerow.gateway.renewal.service import Renewals

RENEW: Final = "/identity/renew"
CHAIN: Final = "hedgerow.chain"
"""Key of the verified chain in the ASGI scope."""
_CSR_BYTES: Final = 8 * 1024
_LOG_BYTES: Final = 4 * 1024 * 1024
_RFC3339: Final = "%Y-%m-%dT%H:%M:%SZ"
# Any certificate of the fleet, one of the rights, or (RENEW) a machine's.
_ANYONE: Final = frozenset({"/identity/crl.pem", "/identity/time"})
_OBSERVED: Final = frozenset({"/metrics", "/health/live"})


class ChainProtocol(PeerProtocol):
    """With the verified chain in the scope of every request, beside the peer."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        tls = self.transport.get_extra_info("ssl_object")
        self.scope[CHAIN] = () if tls is None else verified_chain(tls)  # type: ignore[typeddict-unknown-key]


class Figures:
    """What is counted."""

    def __init__(self, lists: ServedLists, renewals: Renewals) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "hedgerow_renewal_requests", "Requests for a renewal, by how they ended.", ["code"], registry=self.registry
        )
        for code in ("renewed", *Code):
            self.requests.labels(str(code))
        clones = Gauge("hedgerow_renewal_cloned_serials", "Serials that two boards hold.", registry=self.registry)
        clones.set_function(lambda: float(len(renewals.history.cloned)))
        ends = Gauge(
            "hedgerow_renewal_issuer_expiry_timestamp_seconds",
            "End of the issuing CA's certificate.",
            registry=self.registry,
        )
        ends.set_function(lists.issuer_ends.timestamp)


class Guard:
    """Answers 403 to a caller who may not call the path, or whose certificate is not valid now."""

    def __init__(self, app: ASGIApp, config: RenewalConfig) -> None:
        self._app = app
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (why := self._refused(scope)) is not None:
            refusal = json_response({"error": why, "code": "refused", "next_step": ""}, status=403)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refused(self, scope: Scope) -> str | None:
        peer: Peer | None = scope.get(PEER)
        path = scope["path"]
        if peer is None or peer.fleet != self._config.fleet:
            return f"no certificate of this fleet may call {path}"
        if path == RENEW:
            return None if peer.profile in DEVICE_PROFILES else f"profile {peer.profile.value} may not call {path}"
        now = datetime.now(UTC)
        if not all(each.not_valid_before_utc <= now < each.not_valid_after_utc for each in scope[CHAIN]):
            return f"an expired certificate may call {RENEW} alone"
        if path in _ANYONE:
            return None
        right = Right.OBSERVE if path in _OBSERVED else Right.CONTROL
        return None if peer.may(right, site=self._config.site) else f"profile {peer.profile.value} may not call {path}"


def application(config: RenewalConfig, renewals: Renewals, lists: ServedLists, issued: Path) -> ASGIApp:
    """All routes behind their guard. ``issued`` is the issuing CA's own log."""
    answers = _Answers(renewals, lists)
    routes = [
        Route(RENEW, answers.renew, methods=["POST"]),
        Route("/identity/crl.pem", answers.crl),
        Route("/identity/time", answers.time),
        Route("/identity/log", answers.log_of(renewals.history.log.path)),
        Route("/identity/issued", answers.log_of(issued)),
        Route("/health/live", answers.live),
        Route("/metrics", answers.metrics),
    ]
    return Guard(Application(routes), config)


class _Answers:
    """The routes."""

    def __init__(self, renewals: Renewals, lists: ServedLists) -> None:
        self._renewals = renewals
        self._lists = lists
        self._figures = Figures(lists, renewals)

    async def renew(self, request: Request) -> Response:
        try:
            asked = bytes(await body(request, limit=_CSR_BYTES)).decode("ascii")
        except UnicodeDecodeError:
            return _refused(Refusal(Code.BAD_REQUEST, "the request is not PEM", "send one in PEM"), self._figures)
        peer, chain, vouched = request.scope[PEER], request.scope[CHAIN], request.headers.get("hedgerow-anchor")
        try:
            # It writes to the disk, and the disk may be slow.
            done = await asyncio.to_thread(self._renewals.renew, peer, chain, asked, vouched=vouched)
        except Refusal as refusal:
            return _refused(refusal, self._figures)
        self._figures.requests.labels("renewed").inc()
        return json_response(
            {
                "certificate": done.certificate,
                "ca": done.ca,
                "not_after": done.not_after.strftime(_RFC3339),
                "serial_number": done.serial_number,
            }
        )

    async def crl(self, request: Request) -> Response:
        served = self._lists.bundle
        if not served.text:
            raise NotFound("there is no revocation list yet")
        headers = {"etag": served.etag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == served.etag:
            return Response(status_code=304, headers=headers)
        return Response(served.text, media_type="application/x-pem-file", headers=headers)

    async def time(self, _: Request) -> Response:
        return json_response({"time": datetime.now(UTC).strftime(_RFC3339)})

    async def live(self, _: Request) -> Response:
        return json_response({"live": True})

    async def metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._figures.registry), media_type=CONTENT_TYPE_LATEST)

    def log_of(self, path: Path) -> Any:
        """A route that answers with an append-only log."""

        async def answer(request: Request) -> Response:
            return await asyncio.to_thread(_lines, path, request.query_params.get("from", "0"))

        return answer


async def keep_current(lists: ServedLists, every_s: float) -> None:
    """Refresh the lists, until cancelled."""
    while True:
        began = time.monotonic()
        await asyncio.to_thread(lists.refresh)
        await asyncio.sleep(max(0.0, every_s - (time.monotonic() - began)))


def _refused(refusal: Refusal, figures: Figures) -> Response:
    figures.requests.labels(str(refusal.code)).inc()
    answer = {"error": refusal.what, "code": str(refusal.code), "next_step": refusal.next_step or ""}
    response = json_response(answer, status=refusal.status)
    if refusal.retry_after_s is not None:
        response.headers["retry-after"] = str(refusal.retry_after_s)
    return response


def _lines(path: Path, start: str) -> Response:
    """Whole lines of an append-only log from byte ``start`` on, as many as fit; the rest is asked for next."""
    if not start.isdigit():
        raise BadRequest(f"from is {start!r}, not a number of bytes", field="from")
    try:
        with path.open("rb") as file:
            file.seek(int(start))
            data = file.read(_LOG_BYTES)
    except FileNotFoundError:
        data = b""
    whole = data[: data.rfind(b"\n") + 1]
    return Response(whole, media_type="application/jsonl", headers={"hedgerow-next": str(int(start) + len(whole))})
