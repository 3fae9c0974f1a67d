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

from hedgerow.errors import DeviceError, NetworkError
from hedgerow.fleet.chat_stream import ChatPiece, read_event, refused_field
from hedgerow.fleet.reported import Report, decode_report
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
