"""What the server takes up when it starts: its runtime and its configuration.

- Nothing can be loaded beside what is in service, so a version is proven as far as that goes without a server: a
  runtime imports what it will serve with, and reads the configuration in place; a configuration is read by the very
  code that the server reads it with. Then the link moves, and the server restarts.
- It is in service once the server says that it runs with it, and serves the model that ``current`` of the models names.
- Going back needs nothing of the version that is left: links are moved, and the server is restarted, by systemd and the
  system's own Python (``switch``), on the word of the runtime before (``confirmed``).
- While the server does not answer, a command that finds an activation cut off leaves it alone: systemd is starting it.
"""

from __future__ import annotations

import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hedgerow.device import links
from hedgerow.device.change import Change, Kind, configuration_version
from hedgerow.device.control import Server, ServerDownError, Status
from hedgerow.device.switcher import Switcher
from hedgerow.errors import DeviceError, RefusedError, UsageError
from hedgerow.registry.reference import Reference
from hedgerow.runtime.install import MARKER

CONFIRMED = "confirmed"
"""The runtime's third link: what runs the deadline and the agent. It moves when a version is confirmed."""
FILE = "server.yml"
# systemd says that the server is ready once its model is loaded; what is left is a question over its socket.
ANSWER_WITHIN_S = 15.0
_POLL_S = 0.1
# A Pi imports ONNX Runtime from a slow card in some ten seconds.
_PROOF_S = 120
_PROOF = "import sys, hedgerow.device.cli, hedgerow.server.run as _; from hedgerow.server import config as c; "
_READ = "from pathlib import Path; c.load(Path(sys.argv[1]))"


@dataclass(frozen=True)
class Service:
    """The server as these slots need it. ``model_home`` has the links of the model that it has to serve."""

    server: Server
    switcher: Switcher
    model_home: Path
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def running(self) -> Status | None:
        """What runs now; None: nothing that answers."""
        try:
            return self.server.status()
        except ServerDownError:
            return None

    def restart(self, runs_it: Callable[[Status], bool], what: Change) -> float:
        """Restart it and wait until it serves its model with ``what``; the seconds that took.

        Raises:
            DeviceError: it does not.
        """
        started = self.monotonic()
        self.switcher.restart()
        version = links.target(self.model_home, links.CURRENT)
        model = None if version is None else Reference(self.model_home.name, version)
        deadline = self.monotonic() + ANSWER_WITHIN_S
        while True:
            status = self.running()
            if status is not None and runs_it(status) and status.serving == model:
                return round(self.monotonic() - started, 3)
            if self.monotonic() > deadline:
                raise DeviceError(
                    f"with {what} the server {_lack(status, model, ran=status is not None and runs_it(status))}",
                    where="/run/hedgerow/server.sock",
                    next_step="journalctl -u hedgerow-server",
                )
            self.sleep(_POLL_S)


def _lack(status: Status | None, model: Reference | None, *, ran: bool) -> str:
    if status is None:
        return "does not answer"
    if not ran:
        return "does not say that it runs with it"
    return f"serves {status.serving or 'no model'}, not {model or 'none'}"


class RestartingSlot(ABC):
    """What both have in common; ``point`` and ``prove`` are their own."""

    kind: Kind
    restarts = True
    keeps_first = True

    def __init__(self, home: Path, service: Service) -> None:
        self.home = home
        self._service = service

    @property
    def name(self) -> str:
        return self.kind

    def switch(self, version: str) -> float | None:
        return self._service.restart(lambda status: self._of(status) == version, Change.of(self.kind, version))

    def serve(self, version: str) -> None:
        status = self._service.running()
        if status is None or self._of(status) != version:
            self.switch(version)

    def finish(self, version: str) -> None:
        status = self._service.running()
        if status is not None and self._of(status) != version:
            self.switch(version)

    def ready(self, version: str) -> None:  # noqa: B027 - a default, not a duty
        """Nothing can be done before the restart."""

    def forget(self, version: str, back: str | None) -> None:  # noqa: B027 - a default, not a duty
        """Proving it has left nothing in the server."""

    @abstractmethod
    def _of(self, status: Status) -> str | None:
        """The version that a running server says it was started with."""

    def _require_back(self, back: str | None) -> None:
        if back is None or not is_whole(self.home, Change.of(self.kind, back)):
            raise RefusedError(
                f"the {self.kind} in service, {back or 'which has no version'}, could not be gone back to",
                where=str(self.home),
                next_step="playbooks/site.yml for this host puts it in order",
            )


class ConfigurationSlot(RestartingSlot):
    """``server.yml`` in its versions: ``home/<hash>/server.yml``. ``of`` is the device that one has to be for."""

    kind: Kind = "configuration"

    def __init__(self, home: Path, service: Service, of: dict[str, str]) -> None:
        super().__init__(home, service)
        self._device = of

    def prove(self, version: str, back: str | None) -> float | None:
        path = self.home / version / FILE
        if not is_whole(self.home, Change.of(self.kind, version)):
            raise UsageError(
                f"configuration:{version} is not whole on this device",
                where=str(path),
                next_step=f"hedgerow-device stage configuration:{version} < {FILE}",
            )
        validate(path.read_bytes(), self._device, where=str(path))
        self._require_back(back)
        return None

    def point(self, link: str, version: str | None) -> None:
        links.point(self.home, link, version)

    def settle(self, version: str) -> None:
        """The links say all."""

    def _of(self, status: Status) -> str | None:
        return status.configuration


def is_whole(home: Path, change: Change) -> bool:
    """Whether a version of the runtime or of the configuration is there, as it came."""
    if change.kind == "runtime":
        return (home / change.version / MARKER).is_file()
    try:
        return configuration_version((home / change.version / FILE).read_bytes()) == change.version
    except OSError:
        return False


def validate(data: bytes, device: dict[str, str], *, where: str) -> None:
    """Read a configuration as the server does, and hold it to the device that it is for (its keys of ``device``).

    Raises:
        UsageError: the server would refuse it.
        RefusedError: it is for another device, or for another model than this device serves.
    """
    from hedgerow.server import config as server

    config = server.decode(data, where=where)
    for key, own in device.items():
        if getattr(config, key) != own:
            raise RefusedError(
                f"its {key} is {getattr(config, key)}, this device's is {own}",
                where=where,
                next_step="render it for this host; another model comes by a rollout of its own",
            )


class RuntimeSlot(RestartingSlot):
    """The server's Python runtime: ``home/<version>`` with its marker. Links are moved by the switch alone."""

    kind: Kind = "runtime"

    def __init__(self, home: Path, service: Service, *, configuration: Path) -> None:
        super().__init__(home, service)
        self._switcher = service.switcher
        self._configuration = configuration

    def prove(self, version: str, back: str | None) -> float | None:
        if not is_whole(self.home, Change.of(self.kind, version)):
            raise UsageError(
                f"runtime:{version} is not on this device",
                where=str(self.home / version),
                next_step="a rollout brings it, and so does playbooks/site.yml; no registry has it",
            )
        self._require_back(back)
        _prove([str(self.home / version / "bin/python"), "-I", "-c", _PROOF + _READ, str(self._configuration)])
        _prove([str(self.home / version / "bin/hedgerow-device"), "--help"])
        return None

    def point(self, link: str, version: str | None) -> None:
        self._switcher.point(link, version)

    def settle(self, version: str) -> None:
        if links.target(self.home, CONFIRMED) != version:
            self._switcher.point(CONFIRMED, version)

    def _of(self, status: Status) -> str | None:
        return status.runtime


def _prove(command: Sequence[str]) -> None:
    """Run a part of a new runtime.

    Raises:
        DeviceError: it does not do what it must.
    """
    said = "it took too long"
    with suppress(subprocess.TimeoutExpired):
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PROOF_S, check=False
            )
        except OSError as error:
            said = str(error)
        else:
            if done.returncode == 0:
                return
            said = (done.stderr or done.stdout).strip()[-600:]
    raise DeviceError(
        f"the new runtime does not start: {said}",
        where=command[0],
        next_step="what was served before still is; build the runtime anew: hedgerow runtime build",
    )
