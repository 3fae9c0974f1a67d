"""Gather what the health report needs; ``hedgerow.device.health`` decides what it means.

Hardware is read on a thread and kept for a moment, so that a storm of probes does not start a storm of programs. The
accelerator's versions change only at boot and asking for them opens the device: they are read once.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hedgerow.device import application_state, hardware, heartbeat, processor
from hedgerow.device.health import AgentState, Code, HealthReport, ModelState, Observation, build
from hedgerow.runtime import installed
from hedgerow.server.degradation import Readings

if TYPE_CHECKING:
    from hedgerow.server.dataplane import DataPlane

KEEP_S = 2.0


class _Pending(msgspec.Struct):
    """What the server needs of ``pending.json``; ``deadline`` is UTC."""

    deadline: datetime


class Observer:
    """Makes health reports of one server. ``certificate_ends`` is asked at every report: renewal changes it.

    ``runtime`` and ``configuration`` are the versions that this process was started with.
    """

    def __init__(
        self,
        plane: DataPlane,
        *,
        host: str,
        serial: str,
        model: str,
        models_dir: Path,
        activation_dir: Path,
        certificate_ends: Callable[[], datetime | None] = lambda: None,
        revocation_outdated: Callable[[], datetime | None] = lambda: None,
        restarts: Callable[[], int | None] = lambda: None,
        heartbeat_file: Path | None = None,
        applications_file: Path | None = None,
        configuration: str | None = None,
    ) -> None:
        self.runtime = installed.version()
        self.configuration = configuration
        self._plane = plane
        self._host = host
        self._serial = serial
        self._model = model
        self._models_dir = models_dir
        self._activation_dir = activation_dir
        self._certificate_ends = certificate_ends
        self._revocation_outdated = revocation_outdated
        self.restarts = restarts
        self._heartbeat = heartbeat_file
        self._applications = applications_file
        self._first_seen: dict[Code, datetime] = {}
        self._boot_facts: dict[str, Any] | None = None
        self._kept: tuple[float, dict[str, Any]] | None = None
        self._lock = asyncio.Lock()

    async def report(self) -> HealthReport:
        """The health report now."""
        async with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] > KEEP_S:
                self._kept = time.monotonic(), await asyncio.to_thread(self._read_hardware)
        beat = None if self._heartbeat is None else heartbeat.read(self._heartbeat)
        observed = Observation(
            host=self._host,
            serial=self._serial,
            runtime=self.runtime,
            configuration=self.configuration,
            hardware=self._kept[1],
            model=self._model_state(),
            model_error=self._plane.error(self._model),
            draining=self._plane.draining,
            serving=self._plane.serving_figures(restarts=self.restarts()),
            confirm_deadline=self._confirm_deadline(),
            certificate_ends=self._certificate_ends(),
            revocation_outdated=self._revocation_outdated(),
            agent=None if beat is None else AgentState(beat.at, beat.last_answer, beat.failures),
            watchdog=None if beat is None else beat.failing,
            processor=processor.read(),
            degradation=self._plane.degradation.shown(),
            on_demand=self._plane.on_demand,
            applications=None if self._applications is None else application_state.read(self._applications),
        )
        return build(observed, datetime.now(UTC), self._first_seen)

    def _read_hardware(self) -> dict[str, Any]:
        if self._boot_facts is None:
            self._boot_facts = hardware.read(with_hailortcli=True)
        now = hardware.read(with_hailortcli=False, disk_paths=(str(self._models_dir),))
        kept = {key: self._boot_facts["hat"][key] for key in ("firmware_version", "architecture", "mismatch", "error")}
        if _hidden_from_us(now["hat"]):
            kept["error"] = None
        # Never read again while a process may own the NPU; an old temperature would be a lie, so it is left out.
        return {**now, "hat": {**now["hat"], **kept}}

    def _model_state(self) -> ModelState | None:
        served = self._plane.serving(self._model)
        if served is None:
            return None
        return ModelState(served.name, served.version, served.sha256, served.since, self._previous())

    def _previous(self) -> str | None:
        try:
            return (self._models_dir / self._model / "previous").readlink().name
        except OSError:
            return None

    def _confirm_deadline(self) -> datetime | None:
        try:
            pending = msgspec.json.decode((self._activation_dir / "pending.json").read_bytes(), type=_Pending)
        except (OSError, msgspec.DecodeError):
            return None
        return pending.deadline.astimezone(UTC)


def readings() -> Readings:
    """The board's state as the server's own decisions go by it. Blocks: one program is started."""
    now = hardware.read_pressure()
    flags = {} if now["throttled"] is None else now["throttled"]["now"]
    alarm = now["undervoltage_now"]
    return Readings(
        temperature_c=now["thermal"]["soc_c"],
        memory_available_mb=now["memory"]["available_mb"],
        memory_stalled_percent=now["memory_stalled_percent"],
        undervoltage=flags.get("undervoltage") if alarm is None else alarm,
        throttled=flags["throttled"] or flags["capped"] if flags else None,
    )


def _hidden_from_us(hat: dict[str, Any]) -> bool:
    """Whether the accelerator cannot be asked for want of rights: then nothing is known of it, and nothing is wrong."""
    node = hat["node"]
    if node is not None and not os.access(node, os.R_OK | os.W_OK):
        return True
    return hat["library_version"] is None and shutil.which("hailortcli") is not None
