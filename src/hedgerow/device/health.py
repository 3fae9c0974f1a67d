"""The health report: what a device says of itself at ``GET /health/report`` (docs/contracts.md).

Invariants:

- This module does no IO and reads no clock: ``build`` is handed what was observed, and the time.
- ``status`` follows from the reasons alone: any ``critical`` one makes it ``failing``, any ``warning`` ``degraded``.
- None means unknown; an unknown value is never a reason.
- Reason codes are a closed set, a sentence each, so that gates and alerts can name them.

The JSON Schema beside this file is generated:
``python -m hedgerow.device.health > src/hedgerow/device/health.schema.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Literal

from msgspec import Struct

from hedgerow import json_schema as schemas
from hedgerow.device.processor import ProcessorState

SCHEMA: Final = 1

# Arm throttling begins at 80 °C and is hard at 85 °C (Raspberry Pi documentation, frequency-management).
THROTTLING_BEGINS_C: Final = 80.0
DISK_LOW_MB: Final = 256
MEMORY_LOW_MB: Final = 128
# A certificate is renewed at a third of its life left; under three days, renewal has failed for a week.
CERTIFICATE_ENDS_SOON: Final = timedelta(days=3)
# It beats every few seconds, and stands still for minutes at the most: while it takes a version back.
AGENT_SILENT: Final = timedelta(minutes=15)

Status = Literal["ok", "degraded", "failing"]
Severity = Literal["critical", "warning", "info"]


class Code(StrEnum):
    """Why a device is not simply well."""

    NO_MODEL = "no_model"
    MODEL_FAILED = "model_failed"
    DRAINING = "draining"
    CONFIRM_PENDING = "confirm_pending"
    THROTTLED = "throttled"
    UNDERVOLTAGE = "undervoltage"
    HOT = "hot"
    HAT_MISMATCH = "hat_mismatch"
    HAT_ERROR = "hat_error"
    DISK_LOW = "disk_low"
    MEMORY_LOW = "memory_low"
    CLOCK_UNSYNCED = "clock_unsynced"
    CERTIFICATE_ENDS_SOON = "certificate_ends_soon"
    CERTIFICATE_EXPIRED = "certificate_expired"
    REVOCATION_OUTDATED = "revocation_outdated"
    REQUESTS_FAIL = "requests_fail"
    SERVER_DOWN = "server_down"
    WATCHDOG_FAILING = "watchdog_failing"
    AGENT_SILENT = "agent_silent"
    APPLICATION_FAILING = "application_failing"
    SMALLER_MODEL = "smaller_model"
    ANSWERS_SHORTENED = "answers_shortened"
    ANSWERS_CANNED = "answers_canned"
    LOAD_SHED = "load_shed"


# The sentence and the weight of each code; ``build`` may add a figure in brackets.
REASONS: Final[dict[Code, tuple[Severity, str]]] = {
    Code.NO_MODEL: ("critical", "No model is being served."),
    Code.MODEL_FAILED: ("critical", "The model that should be served could not be loaded."),
    Code.DRAINING: ("warning", "The server takes no new requests: it is being drained."),
    Code.CONFIRM_PENDING: ("info", "A new version waits to be confirmed, or it will be reverted."),
    Code.THROTTLED: ("warning", "The firmware is slowing the processor down."),
    Code.UNDERVOLTAGE: ("warning", "The supply voltage is too low."),
    Code.HOT: ("warning", "The processor is as hot as where throttling begins."),
    Code.HAT_MISMATCH: ("warning", "The accelerator's driver, library and firmware do not fit together."),
    Code.HAT_ERROR: ("warning", "The accelerator does not answer as it should."),
    Code.DISK_LOW: ("warning", "Little disk space is left for models."),
    Code.MEMORY_LOW: ("warning", "Little memory is available."),
    Code.CLOCK_UNSYNCED: ("info", "The clock is not synchronised."),
    Code.CERTIFICATE_ENDS_SOON: ("warning", "The device's certificate ends soon and was not renewed."),
    Code.CERTIFICATE_EXPIRED: ("critical", "The device's certificate has expired."),
    Code.REVOCATION_OUTDATED: ("warning", "The list of revoked certificates is out of date; it is still applied."),
    Code.REQUESTS_FAIL: ("warning", "A noticeable share of requests fails."),
    Code.SERVER_DOWN: ("critical", "The inference server does not answer."),
    Code.WATCHDOG_FAILING: ("critical", "The device's own watchdog gets no right answer from the model."),
    Code.AGENT_SILENT: ("warning", "The device's agent gives no sign of life."),
    Code.APPLICATION_FAILING: ("warning", "An application of this device does not run as it should."),
    Code.SMALLER_MODEL: ("warning", "Under pressure: a smaller model answers in place of the one in service."),
    Code.ANSWERS_SHORTENED: ("warning", "Under pressure: answers are cut short."),
    Code.ANSWERS_CANNED: ("warning", "Under pressure: every request gets the same prepared answer."),
    Code.LOAD_SHED: ("warning", "Under pressure: requests are sent away."),
}

# Under ten requests one failure says little; above, 5 % is ten times the fleet's goal of 0.5 %.
_FAIL_MINIMUM: Final = 10
_FAIL_RATIO: Final = 0.05


class Reason(Struct, frozen=True):
    """One reason: ``since`` is when this process first saw it, UTC."""

    code: Code
    severity: Severity
    text: str
    since: datetime


class ModelState(Struct, frozen=True):
    """What is served; ``sha256`` is the bundle's identity, ``previous`` the version that revert returns to."""

    name: str
    version: str
    sha256: str | None
    since: datetime | None
    previous: str | None


class HatState(Struct, frozen=True):
    """The accelerator; ``link`` as ``8.0 GT/s x1``."""

    kind: str | None = None
    driver: str | None = None
    library: str | None = None
    firmware: str | None = None
    link: str | None = None
    temperature_c: float | None = None


class BoardState(Struct, frozen=True):
    """The board; throttle flags by name (``undervoltage``, ``capped``, ``throttled``, ``soft_limit``)."""

    model: str | None = None
    temperature_c: float | None = None
    throttled_now: tuple[str, ...] | None = None
    throttled_since_boot: tuple[str, ...] | None = None
    undervoltage_now: bool | None = None
    memory_available_mb: int | None = None
    memory_total_mb: int | None = None
    disk_free_mb: int | None = None


class Serving(Struct, frozen=True):
    """The last ``window_s`` seconds; milliseconds and tokens a second, None where nothing was measured."""

    window_s: float
    requests: int = 0
    errors: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    ttft_p95_ms: float | None = None
    tokens_per_s: float | None = None
    queue: int = 0
    restarts: int | None = None


class Pending(Struct, frozen=True):
    """An activation that nobody has confirmed yet."""

    confirm_deadline: datetime


class AgentState(Struct, frozen=True):
    """The device's agent: its last sign of life, when the model last answered as it should, failures in a row since."""

    heartbeat: datetime
    last_answer: datetime | None = None
    failures: int = 0


class ApplicationState(Struct, frozen=True):
    """An application that the inventory names for this device.

    ``version`` None: none is installed. ``restarts`` since it was last started on purpose; ``answers``: its ports do on
    loopback, None where it does not run. ``trouble`` is why it is not well, in systemd's words or ours.
    """

    name: str
    version: str | None
    active: bool
    restarts: int
    answers: bool | None = None
    trouble: str | None = None


Step = Literal["smaller_model", "answers_shortened", "answers_canned", "load_shed"]


class DegradationState(Struct, frozen=True):
    """What a server under pressure does less of; each step is a reason's code, too.

    ``level`` is 1 to 3, ``since`` when it was reached; ``reason`` names what was read of the board. ``answers`` is the
    smaller model that answers, None where the one in service does; ``hindered`` says why a declared one does not.
    """

    level: int
    steps: tuple[Step, ...]
    reason: str
    since: datetime
    answers: str | None = None
    hindered: str | None = None


class HealthReport(Struct, frozen=True):
    """The whole report; times are UTC.

    ``runtime`` and ``configuration`` are the versions that the server was started with; of a server that is down, those
    that it would be started with. ``configuration`` None: not known. ``applications`` None: it runs none, or nobody has
    looked since boot.
    """

    schema: Literal[1]
    host: str
    serial: str
    time: datetime
    clock_synced: bool | None
    status: Status
    reasons: tuple[Reason, ...]
    model: ModelState | None
    runtime: str
    hat: HatState
    board: BoardState
    serving: Serving
    pending: Pending | None
    agent: AgentState | None = None
    processor: ProcessorState | None = None
    configuration: str | None = None
    degradation: DegradationState | None = None
    applications: tuple[ApplicationState, ...] | None = None


class Observation(Struct, frozen=True):
    """What ``build`` makes a report of.

    ``hardware`` has the keys of ``hedgerow.device.hardware.read`` (any may be missing). ``model_error`` says why the
    model that should be served is not. ``agent`` is None where none has run since boot; ``watchdog`` is what it finds
    wrong with the model. ``processor`` is the server's own word, for it takes the server's work out. ``on_demand``:
    models are loaded when they are asked for.
    """

    host: str
    serial: str
    runtime: str
    serving: Serving
    hardware: dict[str, Any] = {}
    model: ModelState | None = None
    model_error: str | None = None
    draining: bool = False
    server_down: bool = False
    confirm_deadline: datetime | None = None
    certificate_ends: datetime | None = None
    revocation_outdated: datetime | None = None
    agent: AgentState | None = None
    watchdog: str | None = None
    configuration: str | None = None
    processor: ProcessorState | None = None
    degradation: DegradationState | None = None
    on_demand: bool = False
    applications: tuple[ApplicationState, ...] | None = None


def build(observed: Observation, now: datetime, first_seen: dict[Code, datetime] | None = None) -> HealthReport:
    """Return the report at ``now``.

    ``first_seen`` is the caller's memory of since when each reason holds; it is brought up to date in place.
    """
    seen = {} if first_seen is None else first_seen
    found = dict(_reasons(observed, now))
    for code in [code for code in seen if code not in found]:
        del seen[code]
    reasons = tuple(
        Reason(code, REASONS[code][0], f"{REASONS[code][1]}{_detail(detail)}", seen.setdefault(code, now))
        for code, detail in found.items()
    )
    hardware = observed.hardware
    return HealthReport(
        schema=SCHEMA,
        host=observed.host,
        serial=observed.serial,
        time=now,
        clock_synced=_get(hardware, "clock", "synced"),
        status=status(reasons),
        reasons=reasons,
        model=observed.model,
        runtime=observed.runtime,
        hat=_hat(hardware),
        board=_board(hardware),
        serving=observed.serving,
        pending=None if observed.confirm_deadline is None else Pending(observed.confirm_deadline),
        agent=observed.agent,
        processor=observed.processor,
        configuration=observed.configuration,
        degradation=observed.degradation,
        applications=observed.applications,
    )


def status(reasons: Iterable[Reason]) -> Status:
    """The worst that the reasons allow."""
    severities = {reason.severity for reason in reasons}
    if "critical" in severities:
        return "failing"
    return "degraded" if "warning" in severities else "ok"


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the report."""
    return schemas.of(HealthReport, "Hedgerow health report")


def _reasons(observed: Observation, now: datetime) -> Iterable[tuple[Code, str | None]]:
    """Every reason that holds, with a detail for its sentence."""
    yield from _serving_reasons(observed)
    yield from _board_reasons(observed.hardware)
    if observed.agent is not None and now - observed.agent.heartbeat > AGENT_SILENT:
        yield Code.AGENT_SILENT, f"since {observed.agent.heartbeat:%Y-%m-%d %H:%M:%S} UTC"
    elif observed.watchdog is not None:
        yield Code.WATCHDOG_FAILING, observed.watchdog
    troubles = [f"{each.name}: {each.trouble}" for each in observed.applications or () if each.trouble is not None]
    if troubles:
        yield Code.APPLICATION_FAILING, "; ".join(troubles)
    if observed.confirm_deadline is not None:
        yield Code.CONFIRM_PENDING, f"until {observed.confirm_deadline:%Y-%m-%d %H:%M:%S} UTC"
    ends = observed.certificate_ends
    if ends is not None and ends <= now:
        yield Code.CERTIFICATE_EXPIRED, f"{ends:%Y-%m-%d %H:%M} UTC"
    elif ends is not None and ends - now < CERTIFICATE_ENDS_SOON:
        yield Code.CERTIFICATE_ENDS_SOON, f"{ends:%Y-%m-%d %H:%M} UTC"
    if observed.revocation_outdated is not None:
        yield Code.REVOCATION_OUTDATED, f"since {observed.revocation_outdated:%Y-%m-%d %H:%M} UTC"


def _serving_reasons(observed: Observation) -> Iterable[tuple[Code, str | None]]:
    if observed.server_down:
        yield Code.SERVER_DOWN, None
    elif observed.model_error is not None:
        yield Code.MODEL_FAILED, observed.model_error
    elif observed.model is None and not observed.on_demand:
        yield Code.NO_MODEL, None
    if observed.draining:
        yield Code.DRAINING, None
    serving = observed.serving
    if serving.requests >= _FAIL_MINIMUM and serving.errors > _FAIL_RATIO * serving.requests:
        yield Code.REQUESTS_FAIL, f"{serving.errors} of {serving.requests} in {serving.window_s:.0f} s"
    if observed.degradation is not None:
        for step in observed.degradation.steps:
            yield Code(step), observed.degradation.reason


def _board_reasons(hardware: dict[str, Any]) -> Iterable[tuple[Code, str | None]]:
    flags = _flags(hardware, "now") or ()
    if "throttled" in flags or "capped" in flags:
        yield Code.THROTTLED, ", ".join(flags)
    if hardware.get("undervoltage_now") or "undervoltage" in flags:
        yield Code.UNDERVOLTAGE, None
    temperature = _get(hardware, "thermal", "soc_c")
    if temperature is not None and temperature >= THROTTLING_BEGINS_C:
        yield Code.HOT, f"{temperature:.1f} °C"
    if _get(hardware, "hat", "mismatch"):
        yield Code.HAT_MISMATCH, None
    elif _get(hardware, "hat", "error"):
        yield Code.HAT_ERROR, str(_get(hardware, "hat", "error"))
    free = _disk_free(hardware)
    if free is not None and free < DISK_LOW_MB:
        yield Code.DISK_LOW, f"{free} MB"
    available = _get(hardware, "memory", "available_mb")
    if available is not None and available < MEMORY_LOW_MB:
        yield Code.MEMORY_LOW, f"{available} MB"
    if _get(hardware, "clock", "synced") is False:
        yield Code.CLOCK_UNSYNCED, None


def _hat(hardware: dict[str, Any]) -> HatState:
    hat = hardware.get("hat") or {}
    speed, width = hat.get("link_speed_gts"), hat.get("link_width")
    return HatState(
        kind=hat.get("kind"),
        driver=hat.get("driver_version_loaded"),
        library=hat.get("library_version"),
        firmware=hat.get("firmware_version"),
        link=None if speed is None or width is None else f"{speed} GT/s x{width}",
        temperature_c=_get(hardware, "thermal", "hat_c"),
    )


def _board(hardware: dict[str, Any]) -> BoardState:
    return BoardState(
        model=_get(hardware, "board", "model"),
        temperature_c=_get(hardware, "thermal", "soc_c"),
        throttled_now=_flags(hardware, "now"),
        throttled_since_boot=_flags(hardware, "since_boot"),
        undervoltage_now=hardware.get("undervoltage_now"),
        memory_available_mb=_get(hardware, "memory", "available_mb"),
        memory_total_mb=_get(hardware, "memory", "total_mb"),
        disk_free_mb=_disk_free(hardware),
    )


def _flags(hardware: dict[str, Any], when: str) -> tuple[str, ...] | None:
    flags = _get(hardware, "throttled", when)
    return None if flags is None else tuple(name for name, on in flags.items() if on)


def _disk_free(hardware: dict[str, Any]) -> int | None:
    """The least of the disks that were asked about."""
    free = [value for value in (_get(hardware, "disk", "free_mb") or {}).values() if value is not None]
    return min(free) if free else None


def _get(hardware: dict[str, Any], group: str, key: str) -> Any:
    return (hardware.get(group) or {}).get(key)


def _detail(detail: str | None) -> str:
    return "" if detail is None else f" ({detail})"


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2, sort_keys=True))  # noqa: T201 - this is the output
