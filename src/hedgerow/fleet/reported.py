"""What a device says of itself, as the controller reads it; no connection is needed to know these types."""

from __future__ import annotations

from datetime import datetime

import msgspec

from hedgerow.errors import DeviceError


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
