"""Bringing to a host what no registry has: this tree's runtime, or the inventory's configuration for it.

Transport-free: ``Line`` runs things there. What arrives stands beside what is in service, proven; nothing is switched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from hedgerow.device.change import Change, configuration_version
from hedgerow.errors import DeviceError, MachineError, UsageError
from hedgerow.rollout import configuration
from hedgerow.rollout.remote import NO_TERMINAL, Completed, parse_answer
from hedgerow.runtime import extras, wheelhouse
from hedgerow.runtime.target import Target

SMOKE_IMPORTS = (
    "hedgerow.device.cli",
    "hedgerow.commands.serve",
    "hedgerow.server.protocols.grpc.port",
    "onnxruntime",
    "onnxruntime_genai",
)
"""As the role ``inference_runtime`` has it, where the inventory says nothing else."""
ROOT = "/opt/hedgerow/runtime"


class Line(Protocol):
    """What can be done on the host. Everything raises ``NetworkError`` where it cannot be reached."""

    def device(self, arguments: Sequence[str], *, timeout_s: int, stdin: bytes) -> Completed:
        """Run ``hedgerow-device`` with ``stdin``."""

    def target(self) -> Target:
        """The host's Python and architecture."""

    def put(self, local: str) -> str:
        """Copy a file of the controller's there; its path, which is gone when the task ends."""

    def remote(self, module: str, function: str, **arguments: Any) -> dict[str, Any]:
        """Run a function of a standard-library-only module as root (``hedgerow.remote_script``)."""


class Delivery:
    """``staging.Deliver`` for one host; ``variables`` are its own."""

    def __init__(self, host: str, line: Line, variables: Mapping[str, Any]) -> None:
        self._host = host
        self._line = line
        self._variables = variables

    def __call__(self, change: str, *, timeout_s: int) -> dict[str, Any]:
        wanted = Change.parse(change)
        bring = self._configuration if wanted.kind == "configuration" else self._runtime
        try:
            return bring(wanted, timeout_s)
        except (UsageError, MachineError) as error:
            # What the controller lacks for this host keeps this host from getting it, and says so in its outcome.
            raise DeviceError(error.what, where=error.where, next_step=error.next_step) from error

    def _configuration(self, wanted: Change, timeout_s: int) -> dict[str, Any]:
        text = configuration.render(self._host, self._variables)
        found = configuration_version(text)
        if found != wanted.version:
            raise _changed_since(wanted, f"configuration:{found}", "the inventory")
        return self._staged(wanted, timeout_s, text)

    def _runtime(self, wanted: Change, timeout_s: int) -> dict[str, Any]:
        with suppress(DeviceError):  # it is not there yet; what else is wrong shows when it is brought
            return self._staged(wanted, timeout_s)
        added = extras.of_host(self._host, self._variables)
        house, _ = wheelhouse.build(self._line.target(), extras=added)
        if house.version != wanted.version:
            raise _changed_since(wanted, f"runtime:{house.version}", f"the tree (with {extras.VARIABLE})")
        imports = self._variables.get("inference_runtime_smoke_imports") or SMOKE_IMPORTS
        self._line.remote(
            "hedgerow.runtime.install",
            "stage",
            archive=self._line.put(house.archive),
            sha256=house.sha256,
            version=house.version,
            root=ROOT,
            smoke_imports=[*imports, *extras.smoke_imports(added)],
        )
        return self._staged(wanted, timeout_s) | {"changed": True, "new_bytes": house.size}

    def _staged(self, wanted: Change, timeout_s: int, stdin: bytes = NO_TERMINAL) -> dict[str, Any]:
        done = self._line.device(["stage", str(wanted), "--json"], timeout_s=timeout_s, stdin=stdin)
        return parse_answer(done, host=self._host, verb="stage")


def _changed_since(wanted: Change, found: str, where: str) -> DeviceError:
    return DeviceError(
        f"{where} makes {found} now, and {wanted} was planned",
        next_step="bring it back to what was planned, or end this rollout and start another",
    )
