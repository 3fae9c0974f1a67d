"""Where the versions of one thing lie on a device, and how one of them is proven and put into service.

``Activation`` has the order of steps, the note and the deadline; a slot has what is different between a model, which
the server loads beside the one in service, what it takes up when it starts (``restarting``), and what runs beside it
(``application``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from hedgerow.device import links
from hedgerow.device.change import Kind
from hedgerow.device.control import Server, ServerDownError
from hedgerow.errors import DeviceError
from hedgerow.registry import bundle as bundles
from hedgerow.registry.reference import Reference


class Slot(Protocol):
    """One thing that has versions. ``home`` has them side by side, and the links ``current`` and ``previous``."""

    @property
    def kind(self) -> Kind: ...

    @property
    def name(self) -> str: ...

    @property
    def home(self) -> Path: ...

    @property
    def restarts(self) -> bool:
        """Whether something has to start anew to run another version: the server, or the application itself."""

    @property
    def keeps_first(self) -> bool:
        """Whether a first version stays that nobody confirmed: unconfirmed serves better than nothing."""

    def prove(self, version: str, back: str | None) -> float | None:
        """Before anything changes: ``version`` is whole and fit, and ``back`` can be gone back to.

        Returns the seconds in which the server loaded it, None where it did not.

        Raises:
            RefusedError, UsageError, PublisherError, DeviceError: it is not; everything is as it was.
        """

    def point(self, link: str, version: str | None) -> None:
        """Have a link name ``version``, in one step; None removes it."""

    def switch(self, version: str) -> float | None:
        """Have the server serve ``version``, which ``current`` names by now; the seconds that a restart took.

        Raises:
            DeviceError: it does not.
        """

    def serve(self, version: str) -> None:
        """Have the server serve ``version`` unless it does. Raises as ``switch``."""

    def finish(self, version: str) -> None:
        """The rest of an activation that was cut off after ``current`` had moved. Raises as ``switch``."""

    def ready(self, version: str) -> None:
        """Before going back to ``version``: what can be done while the one to leave is still in service."""

    def settle(self, version: str) -> None:
        """Nobody goes back from ``version`` any more, or everybody has gone back to it."""

    def forget(self, version: str, back: str | None) -> None:
        """``version`` was proven and is not wanted; the server is to have nothing but ``back``."""


class ModelSlot:
    """A model: loaded and asked its golden inputs beside the one in service, then switched to without a gap."""

    kind: Kind = "model"
    restarts = False
    keeps_first = True

    def __init__(self, name: str, home: Path, server: Server) -> None:
        self.name = name
        self.home = home
        self._server = server

    def prove(self, version: str, back: str | None) -> float | None:  # noqa: ARG002 - the server holds on to it
        bundles.verify_files(self.home / version)
        load_s: float | None = self._server.prepare(self.name, version).get("load_s")
        return load_s

    def point(self, link: str, version: str | None) -> None:
        links.point(self.home, link, version)

    def switch(self, version: str) -> float | None:
        self._server.switch(self.name, version)
        return None

    def serve(self, version: str) -> None:
        self._prepare(version)
        self._server.switch(self.name, version)

    def finish(self, version: str) -> None:
        self.serve(version)

    def ready(self, version: str) -> None:
        with suppress(ServerDownError):
            self._prepare(version)

    def settle(self, version: str) -> None:
        """Nothing but the links says which version stays."""

    def forget(self, version: str, back: str | None) -> None:
        with suppress(DeviceError):
            if back is None:
                self._server.discard(self.name, version)
            else:
                self.serve(back)

    def _prepare(self, version: str) -> None:
        """Have the server load a version, unless that or nothing else is loaded."""
        status, wanted = self._server.status(), Reference(self.name, version)
        if status.serving != wanted:
            if status.prepared != wanted:
                self._server.prepare(self.name, version)
        elif status.prepared is not None:
            self._server.discard(self.name, status.prepared.version)


class Slots:
    """All of a device: one for each model, and those that ``others`` brings, by kind and name."""

    def __init__(self, models_dir: Path, server: Server, others: tuple[Slot, ...] = ()) -> None:
        self._models_dir = models_dir
        self._server = server
        self._others = {(slot.kind, slot.name): slot for slot in others}

    def of(self, kind: Kind, name: str) -> Slot:
        """The slot of a model by its name, or of another kind.

        Raises:
            DeviceError: this device has none of that kind, or runs no application of that name.
        """
        if kind == "model":
            return ModelSlot(name, self._models_dir / name, self._server)
        if kind == "application" and (kind, name) not in self._others:
            raise DeviceError(
                f"this device runs no application {name}",
                where="applications in device.yml",
                next_step=f"name it in the inventory (applications: [{name}]), then playbooks/site.yml for this host",
            )
        if (kind, name) not in self._others:
            raise DeviceError(f"this device has no place for versions of its {kind}", next_step="playbooks/site.yml")
        return self._others[kind, name]

    def homes(self) -> Iterator[Path]:
        """Where links are that a kill may have left temporary names of."""
        if self._models_dir.is_dir():
            yield from (path for path in self._models_dir.iterdir() if path.is_dir())
        yield from (slot.home for slot in self._others.values())
