"""Ask the server of this device, over its control socket (docs/contracts.md)."""

from __future__ import annotations

import http.client
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from hedgerow.errors import DeviceError
from hedgerow.registry.reference import Reference

# Loading a large model from an SD card and answering its golden inputs takes minutes on a busy Pi.
TIMEOUT_S = 600.0
_OK = 200
_UNPROCESSABLE = 422
_JSON = {"content-type": "application/json"}
_START = "systemctl status hedgerow-server, journalctl -u hedgerow-server"


class ServerDownError(DeviceError):
    """The server does not answer; it loads what ``current`` names when it starts again."""


@dataclass(frozen=True)
class Status:
    """What the server has loaded; None where there is nothing."""

    serving: Reference | None
    prepared: Reference | None


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
    """The server behind its Unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def prepare(self, name: str, version: str) -> dict[str, Any]:
        return self._ask("POST", "/control/v1/prepare", {"name": name, "version": version})

    def switch(self, name: str, version: str) -> dict[str, Any]:
        return self._ask("POST", "/control/v1/switch", {"name": name, "version": version})

    def discard(self, name: str, version: str) -> None:
        self._ask("POST", "/control/v1/discard", {"name": name, "version": version})

    def status(self) -> Status:
        answer = self._ask("GET", "/control/v1/status", None)
        return Status(*(_reference(answer[key]) for key in ("serving", "prepared")))

    def report(self) -> dict[str, Any]:
        """The health report."""
        return self._ask("GET", "/health/report", None)

    def _ask(self, method: str, path: str, body: dict[str, str] | None) -> dict[str, Any]:
        connection = _UnixConnection(self._path)
        try:
            connection.request(method, path, None if body is None else msgspec.json.encode(body), _JSON)
            response = connection.getresponse()
            status, data = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServerDownError(
                f"the server does not answer: {error}", where=str(self._path), next_step=_START
            ) from error
        finally:
            connection.close()
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


def _reference(shown: dict[str, Any] | None) -> Reference | None:
    return None if shown is None else Reference(str(shown["name"]), str(shown["version"]))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))
