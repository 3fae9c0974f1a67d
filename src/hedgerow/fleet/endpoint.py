"""One device's server, reached by address and verified by name.

Emulated hosts and many sites have no name server of ours, so a connection goes
to ``ansible_host`` while TLS asks for, and checks, ``<host>.<site>.<fleet>``.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from hedgerow.errors import DeviceError, NetworkError
from hedgerow.fleet.chat_stream import ChatPiece, read_event, refused_field
from hedgerow.registry.probe import FROM_THE_DEVICE

SERVER_PORT = 8443
"""REST over mutual TLS (docs/contracts.md, "Ports on a device")."""


@dataclass(frozen=True)
class Endpoint:
    """Where a host's server is (``address``, ``port``) and who it must prove to be (``server_name``)."""

    host: str
    address: str
    server_name: str
    port: int = SERVER_PORT

    @property
    def url(self) -> str:
        """Base URL, with brackets where the address is an IPv6 one."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"https://{address}:{self.port}"


class ReportedModel(msgspec.Struct, frozen=True):
    """The model a host says it serves."""

    name: str
    version: str
    sha256: str | None = None


class ReportedReason(msgspec.Struct, frozen=True):
    """Something a host has to say; ``severity`` is ``critical``, ``warning`` or ``info``."""

    code: str
    severity: str
    text: str = ""


class ReportedPending(msgspec.Struct, frozen=True):
    """An activation that nobody has confirmed yet."""

    confirm_deadline: float | str | None = None


class ReportedServing(msgspec.Struct, frozen=True):
    """Figures of the server's last ``window_s`` seconds; None where nothing was measured.

    ``restarts`` counts ends of the server that nobody asked for, since boot or its last stop.
    """

    window_s: float | None = None
    requests: int | None = None
    errors: int | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    ttft_p95_ms: float | None = None
    tokens_per_s: float | None = None
    queue: int | None = None
    restarts: int | None = None


class ReportedBoard(msgspec.Struct, frozen=True):
    """The board. Temperatures in °C, sizes in MB; throttle flags by name."""

    model: str | None = None
    temperature_c: float | None = None
    throttled_now: tuple[str, ...] | None = None
    throttled_since_boot: tuple[str, ...] | None = None
    undervoltage_now: bool | None = None
    memory_available_mb: float | None = None
    memory_total_mb: float | None = None
    disk_free_mb: float | None = None


class ReportedHat(msgspec.Struct, frozen=True):
    """The accelerator."""

    kind: str | None = None
    temperature_c: float | None = None


class ReportedAgent(msgspec.Struct, frozen=True):
    """The device's agent; its last sign of life, on the device's clock."""

    heartbeat: datetime | None = None


class ReportedProcessor(msgspec.Struct, frozen=True):
    """Seconds of all cores since boot: all of them, and those that ran for others than the server."""

    total_s: float
    others_s: float


class ReportedApplication(msgspec.Struct, frozen=True):
    """An application that the device is to run; ``version`` None: none is installed.

    ``restarts`` since it was last started on purpose; ``answers``: its ports do, None where it does not run.
    """

    name: str
    version: str | None = None
    active: bool = False
    restarts: int = 0
    answers: bool | None = None
    trouble: str | None = None


class Report(msgspec.Struct, frozen=True):
    """What the controller reads of a health report; unknown keys are passed over, for a device may be newer.

    The full structs are ``hedgerow.device.health``; a test holds this view to them.
    """

    status: str
    model: ReportedModel | None = None
    reasons: tuple[ReportedReason, ...] = ()
    board: ReportedBoard = ReportedBoard()
    hat: ReportedHat = ReportedHat()
    serving: ReportedServing = ReportedServing()
    pending: ReportedPending | None = None
    time: datetime | None = None
    """On the device's clock; comparable with ours where ``clock_synced``."""
    clock_synced: bool | None = None
    agent: ReportedAgent | None = None
    runtime: str | None = None
    """Versions that the server was started with; None: it does not say."""
    configuration: str | None = None
    processor: ReportedProcessor | None = None
    applications: tuple[ReportedApplication, ...] | None = None
    """None: it runs none, or does not say."""

    @property
    def troubles(self) -> tuple[ReportedReason, ...]:
        """What keeps it from being ``ok``. That a version waits to be confirmed, for one, does not."""
        return tuple(reason for reason in self.reasons if reason.severity != "info")

    @property
    def reference(self) -> str | None:
        """``name@version`` of the model, None if it serves none."""
        return None if self.model is None else f"{self.model.name}@{self.model.version}"


_REPORTS: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)
"""Made at import, not at the first report: msgspec builds what it knows of a type without a lock, and threads that ask
for the same type for the first time at once crash the process."""


def decode_report(data: bytes | str, *, where: str) -> Report:
    """Read a health report.

    Raises:
        DeviceError: It is none.
    """
    try:
        return _REPORTS.decode(data)
    except msgspec.DecodeError as error:
        raise DeviceError(
            f"the health report cannot be read: {error}",
            where=where,
            next_step="look at it on the host: hedgerow-device report",
        ) from error


class DeviceClient:
    """Requests to one server; every failure is a ``NetworkError`` or a ``DeviceError`` that says which host.

    ``timeout_s`` bounds connecting and every wait for the next bytes.
    """

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext, *, timeout_s: float = 5.0) -> None:
        self.endpoint = endpoint
        # The environment's proxies are for the internet, not for a fleet's own network.
        self._http = httpx.Client(
            base_url=endpoint.url, verify=context, timeout=timeout_s, trust_env=False, headers=FROM_THE_DEVICE
        )
        self.certificate_expires: datetime | None = None
        """Of the server's certificate, once a request was answered."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def report(self) -> Report:
        """The health report. A failing host answers it, too, with whatever status code its server chose."""
        response = self._send("GET", "/health/report", accept_errors=True)
        if not response.headers.get("content-type", "").startswith("application/json"):
            raise DeviceError(
                f"HTTP {response.status_code} instead of a health report",
                where=f"{self.endpoint.host}: {response.text[:200]!r}",
                next_step=f"on {self.endpoint.host}: journalctl -u hedgerow-server",
            )
        return decode_report(response.content, where=self.endpoint.host)

    def post(self, path: str, body: Any, *, timeout_s: float | None = None) -> Any:
        """POST JSON, return JSON. ``timeout_s``: another than the client's."""
        timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s
        response = self._send("POST", path, json=body, timeout=timeout)
        try:
            return response.json()
        except ValueError as error:
            raise DeviceError(f"POST {path} was answered with no JSON", where=self.endpoint.host) from error

    def stream_chat(
        self,
        model: str,
        messages: Sequence[dict[str, str]],
        *,
        max_tokens: int,
        timeout_s: float | None = None,
        logprobs: bool = False,
    ) -> Iterator[ChatPiece]:
        """Ask and yield the answer's pieces as they come (OpenAI chat completions, server-sent events).

        ``timeout_s``, another than the client's, bounds the wait for each piece. ``logprobs``: with the probabilities
        of the tokens, where the model's backend tells them.
        """
        body: dict[str, Any] = {
            "model": model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if logprobs:
            body["logprobs"] = True
        started = time.monotonic()
        try:
            with self._http.stream(
                "POST",
                "/v1/chat/completions",
                json=body,
                extensions=self._extensions(),
                timeout=httpx.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s,
            ) as response:
                self._note_certificate(response)
                if response.is_error:
                    response.read()
                    if logprobs and refused_field(response) == "logprobs":
                        yield from self.stream_chat(model, messages, max_tokens=max_tokens, timeout_s=timeout_s)
                        return
                    raise self._refusal("POST", "/v1/chat/completions", response)
                for line in response.iter_lines():
                    piece = read_event(line, started, where=self.endpoint.host)
                    if piece is not None:
                        yield piece
        except httpx.TransportError as error:
            raise self._network_error(error) from error

    def _send(self, method: str, path: str, *, accept_errors: bool = False, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, extensions=self._extensions(), **options)
        except httpx.TransportError as error:
            raise self._network_error(error) from error
        self._note_certificate(response)
        if response.is_error and not accept_errors:
            raise self._refusal(method, path, response)
        return response

    def _extensions(self) -> dict[str, Any]:
        return {"sni_hostname": self.endpoint.server_name}

    def _note_certificate(self, response: httpx.Response) -> None:
        stream = response.extensions.get("network_stream")
        tls = None if stream is None else stream.get_extra_info("ssl_object")
        certificate = {} if tls is None else tls.getpeercert() or {}
        if "notAfter" in certificate:
            self.certificate_expires = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)

    def _network_error(self, error: httpx.TransportError) -> NetworkError:
        reason = str(error) or type(error).__name__
        return NetworkError(
            f"cannot be reached: {reason}",
            where=f"{self.endpoint.host}, {self.endpoint.url} as {self.endpoint.server_name}",
            next_step=f"is it on, and does its server run? ansible {self.endpoint.host} -m ansible.builtin.ping",
        )

    def _refusal(self, method: str, path: str, response: httpx.Response) -> DeviceError:
        return DeviceError(
            f"{method} {path} was answered with HTTP {response.status_code}",
            where=f"{self.endpoint.host}: {response.text[:300]}",
            next_step=f"on {self.endpoint.host}: journalctl -u hedgerow-server",
        )
