"""Ask the server of this device, over its control socket (docs/contracts.md)."""

from __future__ import annotations

import http.client
import socket
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from hedgerow.errors import DeviceError
from hedgerow.registry.probe import FROM_THE_DEVICE
from hedgerow.registry.reference import Reference

# Loading a large model from an SD card and answering its golden inputs takes minutes on a busy Pi.
TIMEOUT_S = 600.0
_OK = 200
_UNPROCESSABLE = 422
_JSON = {"content-type": "application/json", **FROM_THE_DEVICE}
_START = "systemctl status hedgerow-server, journalctl -u hedgerow-server"


class ServerDownError(DeviceError):
    """The server does not answer; it loads what ``current`` names when it starts again."""


@dataclass(frozen=True)
class Status:
    """What the server has loaded, None where there is nothing; ``inflight`` requests run.

    ``drained_until`` is when it takes requests again by itself, None where it takes them. ``runtime`` and
    ``configuration`` are the versions that it was started with, None where it does not say. ``stood_in``: its board is
    under pressure, so that another than the model in service answers, or nobody.
    """

    serving: Reference | None
    prepared: Reference | None
    inflight: int = 0
    drained_until: datetime | None = None
    runtime: str | None = None
    configuration: str | None = None
    stood_in: bool = False


class Server(Protocol):
    """What activation needs of the server."""

    def prepare(self, name: str, version: str) -> dict[str, Any]:
        """Load beside and answer golden inputs.

        Raises:
            ServerDownError: nobody answers.
            DeviceError: the version is not fit; what is served stays as it was.
        """

    def switch(self, name: str, version: str) -> dict[str, Any]:
        """Serve the prepared version."""

    def discard(self, name: str, version: str) -> None:
        """Forget the prepared version."""

    def status(self) -> Status:
        """What is in service, and what stands beside it.

        Raises:
            ServerDownError: nobody answers.
        """


class ControlSocket:
    """The server behind its Unix socket; ``timeout_s`` bounds every wait for it."""

    def __init__(self, path: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._path = path
        self._timeout_s = timeout_s

    def prepare(self, name: str, version: str) -> dict[str, Any]:
        return self._ask("POST", "/control/v1/prepare", {"name": name, "version": version})

    def switch(self, name: str, version: str) -> dict[str, Any]:
        return self._ask("POST", "/control/v1/switch", {"name": name, "version": version})

    def discard(self, name: str, version: str) -> None:
        self._ask("POST", "/control/v1/discard", {"name": name, "version": version})

    def status(self) -> Status:
        return _status(self._ask("GET", "/control/v1/status", None))

    def drain(self, *, within_s: int) -> Status:
        """Take no new requests for ``within_s`` seconds at the most; those that run go on."""
        return _status(self._ask("POST", "/control/v1/drain", {"within_s": within_s}))

    def undrain(self) -> Status:
        """Take requests again."""
        return _status(self._ask("POST", "/control/v1/undrain", {}))

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Any request as an application makes it: the HTTP status and the answer's body.

        Raises:
            ServerDownError: nobody answers in time.
        """
        return self._exchange("POST", path, body)

    def report(self) -> dict[str, Any]:
        """The health report."""
        return self._ask("GET", "/health/report", None)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        status, data = self._exchange(method, path, body)
        try:
            answer: dict[str, Any] = msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            raise DeviceError(
                f"the server answered HTTP {status} without JSON", where=path, next_step=_START
            ) from error
        if status == _UNPROCESSABLE:
            code, text = answer["error"]["code"], answer["error"]["text"]
            raise DeviceError(
                f"{(body or {}).get('version')} is not fit to serve ({code}): {text}",
                where=path,
                next_step="what was served before still is; mend the bundle and publish it under a new version",
            )
        if status != _OK:
            raise DeviceError(f"the server answered HTTP {status}: {answer}", where=path, next_step=_START)
        return answer

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        connection = _UnixConnection(self._path, self._timeout_s)
        try:
            connection.request(method, path, None if body is None else msgspec.json.encode(body), _JSON)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServerDownError(
                f"the server does not answer: {error}", where=str(self._path), next_step=_START
            ) from error
        finally:
            connection.close()


def _status(answer: dict[str, Any]) -> Status:
    until = answer.get("drained_until")
    return Status(
        _reference(answer["serving"]),
        _reference(answer["prepared"]),
        int(answer.get("inflight", 0)),
        None if until is None else datetime.fromisoformat(until),
        answer.get("runtime"),
        answer.get("configuration"),
        answer.get("stood_in", False),
    )


def _reference(shown: dict[str, Any] | None) -> Reference | None:
    return None if shown is None else Reference(str(shown["name"]), str(shown["version"]))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
