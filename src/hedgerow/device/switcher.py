"""Ask the device's own switch (``switch``) for what a confined command may not do itself."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, Protocol

from hedgerow.device.switch import TIMEOUT_S
from hedgerow.errors import DeviceError

_SERVER_LOG = "journalctl -u hedgerow-server"


class Switcher(Protocol):
    """Restarts the server and moves the links of runtimes."""

    def restart(self) -> None:
        """Have the server start anew; returns when systemd says that it is ready.

        Raises:
            DeviceError: it did not become ready, or nobody restarts it.
        """

    def point(self, link: str, version: str | None) -> None:
        """Have a link of the runtimes point at ``version``; None removes it.

        Raises:
            DeviceError: there is no such runtime, or nobody moves it.
        """


class SocketSwitcher:
    """A ``Switcher`` behind its Unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def restart(self) -> None:
        said = self._ask({"restart": True})
        if said is not None:
            raise DeviceError(f"the server did not start: {said}", where=str(self._path), next_step=_SERVER_LOG)

    def point(self, link: str, version: str | None) -> None:
        said = self._ask({"link": link, "version": version})
        if said is not None:
            raise DeviceError(
                f"the runtime's link {link} stays: {said}",
                where=str(self._path),
                next_step="see which runtimes there are: ls /opt/hedgerow/runtime",
            )

    def _ask(self, request: dict[str, Any]) -> str | None:
        """None where it was done, else why not."""
        data = b""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
                line.settimeout(2 * TIMEOUT_S)
                line.connect(str(self._path))
                line.sendall(json.dumps(request).encode() + b"\n")
                while part := line.recv(4096):
                    data += part
            done = json.loads(data)
        except (OSError, ValueError) as error:
            raise DeviceError(
                f"nobody restarts the server: {error}",
                where=str(self._path),
                next_step="systemctl status hedgerow-switch.socket; without it: playbooks/site.yml for this host",
            ) from error
        return None if done.get("done") else str(done.get("said"))
