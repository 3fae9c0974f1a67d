"""Applications: what runs beside the server, a version of each, started in place of the one before.

- The bundle is verified byte by byte, then placed beside the one that runs (``application_switch``): nothing stops yet.
- Two of one application would want the same ports, so the new one is started in place of the old, and is in service
  once systemd has it active and its ports answer on loopback. Else the old one is started again.
- Nothing of the model is touched: no drain, no restart of the server.
- A first version that nobody confirms goes again: nothing was served by it before, and nobody misses it.
"""

from __future__ import annotations

import json
import platform
import socket
import time
from pathlib import Path
from typing import Any, Protocol

from hedgerow.device.application_files import MARKER
from hedgerow.device.application_switch import TIMEOUT_S
from hedgerow.device.application_unit import file_name
from hedgerow.device.change import Change, Kind
from hedgerow.errors import DeviceError, RefusedError
from hedgerow.registry import bundle as bundles
from hedgerow.registry.manifest import Manifest


class ApplicationSwitcher(Protocol):
    """Places applications, moves their links and starts them. Everything raises DeviceError where it was not done."""

    def place(self, name: str, version: str) -> None:
        """Unpack a bundle of this device's store, and make its unit."""

    def point(self, name: str, link: str, version: str | None) -> None:
        """Have a link name a version that was placed; without ``current`` nothing of it runs."""

    def start(self, name: str, version: str) -> None:
        """Start what ``current`` names; returns once its ports answer on loopback."""

    def look(self) -> list[dict[str, Any]]:
        """How all of them are (``application_switch.Switch.look``)."""


class SocketApplicationSwitcher:
    """An ``ApplicationSwitcher`` behind its Unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def place(self, name: str, version: str) -> None:
        self._done({"place": name, "version": version}, f"{name}@{version} cannot be placed")

    def point(self, name: str, link: str, version: str | None) -> None:
        self._done({"link": link, "name": name, "version": version}, f"the link {link} of {name} stays")

    def start(self, name: str, version: str) -> None:
        self._done(
            {"start": name, "version": version},
            f"{name}@{version} did not start",
            next_step=f"journalctl -u {file_name(name)}",
        )

    def look(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask({"look": True})["applications"]
        return found

    def _done(self, request: dict[str, Any], what: str, *, next_step: str | None = None) -> None:
        answer = self._ask(request)
        if not answer.get("done"):
            raise DeviceError(f"{what}: {answer.get('said')}", where=str(self._path), next_step=next_step)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        data = b""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
                line.settimeout(TIMEOUT_S)
                line.connect(str(self._path))
                line.sendall(json.dumps(request).encode() + b"\n")
                while part := line.recv(4096):
                    data += part
            answer: dict[str, Any] = json.loads(data)
        except (OSError, ValueError) as error:
            raise DeviceError(
                f"nobody starts applications: {error}",
                where=str(self._path),
                next_step="systemctl status hedgerow-applications.socket; without it: playbooks/site.yml for this host",
            ) from error
        return answer


class ApplicationSlot:
    """One application: bundles come to ``store/VERSION``, and are placed in ``home/VERSION`` beside its links."""

    kind: Kind = "application"
    restarts = True
    keeps_first = False

    def __init__(self, name: str, home: Path, store: Path, switcher: ApplicationSwitcher) -> None:
        self.name = name
        self.home = home
        self._store = store
        self._switcher = switcher

    def prove(self, version: str, back: str | None) -> float | None:
        if not self.home.is_dir():
            raise DeviceError(
                f"this device has no place for the application {self.name} yet",
                where=str(self.home),
                next_step="playbooks/site.yml for this host",
            )
        bundle = bundles.verify_files(self._store / version)
        require_application(bundle.manifest, Change(self.kind, self.name, version), where=str(bundle.directory))
        if back is not None and not (self.home / back / MARKER).is_file():
            raise RefusedError(
                f"{self.name}@{back}, which runs, could not be gone back to: it is not whole",
                where=str(self.home / back),
                next_step=f"place it again: hedgerow-device stage {self.name}@{back}; or revert first",
            )
        self._switcher.place(self.name, version)
        return None

    def point(self, link: str, version: str | None) -> None:
        self._switcher.point(self.name, link, version)

    def switch(self, version: str) -> float | None:
        began = time.monotonic()
        self._switcher.start(self.name, version)
        return round(time.monotonic() - began, 3)

    def serve(self, version: str) -> None:
        seen = next((each for each in self._switcher.look() if each["name"] == self.name), None)
        if seen is None or seen["version"] != version or not (seen["active"] and seen["started"]):
            self._switcher.start(self.name, version)

    def finish(self, version: str) -> None:
        self.serve(version)

    def ready(self, version: str) -> None:
        """Nothing can be done before the one to leave has stopped."""

    def settle(self, version: str) -> None:
        """The links say all."""

    def forget(self, version: str, back: str | None) -> None:
        """What was placed stands beside the one that runs, and goes with the next."""


def require_application(manifest: Manifest, change: Change, *, where: str) -> None:
    """Refuse a bundle that is not this application, or that no device can start.

    Raises:
        RefusedError: says which.
    """
    if (manifest.kind, manifest.name, manifest.version) != (change.kind, change.name, change.version):
        raise RefusedError(f"it is {manifest.kind} {manifest.reference}, not {change}", where=where)
    if manifest.application is None or manifest.application.unit is None:
        raise RefusedError(
            f"{change} is an OCI image as it was built; devices start what was packed with a unit (rule: unit-folder)",
            where=where,
            next_step="pack the image again: hedgerow model pack-application IMAGE.tar",
        )
    machine = platform.machine()
    if manifest.requires.machine not in {None, machine}:
        raise RefusedError(
            f"{change} is for {manifest.requires.machine}, and this device is {machine} (rule: machine)",
            where=where,
            next_step="pack the image that is for it: hedgerow model pack-application --platform",
        )
