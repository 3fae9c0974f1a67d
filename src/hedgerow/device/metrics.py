"""What a board and its HAT measure, as Prometheus samples (docs/contracts.md, "Metrics").

- Each collection reads sysfs. What starts programs is read at most every ``FIRMWARE_INTERVAL_S``; what talks to the
  NPU is the last answer of ``Board.refresh``, which somebody else calls.
- A value that is unknown has no sample: zero is a temperature, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from hedgerow.device import confinement, hardware, hat_chain, heartbeat
from hedgerow.device.pinned import Pinned
from hedgerow.device.store import written

FIRMWARE_INTERVAL_S = 5.0


class Board:
    """The hardware, asked no more often than is good for it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._firmware: tuple[float, dict[str, Any]] | None = None
        self._full: dict[str, Any] | None = None

    def sensors(self) -> dict[str, Any]:
        """What sysfs has, read now."""
        return hardware.read_sensors()

    def firmware(self) -> dict[str, Any]:
        """Throttle bits, rails and PMIC temperature, at most ``FIRMWARE_INTERVAL_S`` old."""
        with self._lock:
            now = self._clock()
            if self._firmware is None or now - self._firmware[0] >= FIRMWARE_INTERVAL_S:
                self._firmware = (now, hardware.read_firmware())
            return self._firmware[1]

    def full(self) -> dict[str, Any] | None:
        """The last full reading, which alone knows the HAT; None until there is one."""
        return self._full

    def refresh(self) -> None:
        """Read everything, the HAT included; blocks as long as the chip is busy."""
        self._full = hardware.read()


class DeviceCollector(Collector):
    """The samples of ``hedgerow_device_`` and ``hedgerow_hat_``."""

    def __init__(
        self,
        board: Board,
        certificate: Path,
        pinned: Pinned | None = None,
        *,
        store: Path,
        beats: Path = heartbeat.FILE,
    ) -> None:
        """``store`` is the count of what the store of models has written (``store.layout.Layout.written``)."""
        self._board = board
        self._store = store
        self._beats = beats
        self._pinned = pinned or Pinned()
        # The certificate that this process serves with: a service is restarted when it is renewed.
        self._expiry = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc.timestamp()

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: registering must not read hardware."""
        return ()

    def collect(self) -> Iterator[Metric]:
        sensors, firmware, full = self._board.sensors(), self._board.firmware(), self._board.full()
        yield from _temperatures(sensors, firmware)
        yield from _power(sensors, firmware)
        yield _gauge("hedgerow_device_fan_rpm", "Speed of the fan in revolutions a minute.", sensors["fan_rpm"])
        yield _gauge(
            "hedgerow_device_certificate_expiry_timestamp_seconds", "End of the device's certificate.", self._expiry
        )
        yield _apparmor()
        yield from _agent(heartbeat.read(self._beats))
        yield _written(written.read(self._store))
        yield from _pins(self._pinned, full)
        yield from _hat(full, sensors)


def _temperatures(sensors: dict[str, Any], firmware: dict[str, Any]) -> Iterator[Metric]:
    yield _labelled(
        "hedgerow_device_temperature_celsius",
        "Temperature of the processor and of its power controller.",
        "sensor",
        {"soc": sensors["thermal"]["soc_c"], "pmic": firmware["pmic_c"]},
    )


def _power(sensors: dict[str, Any], firmware: dict[str, Any]) -> Iterator[Metric]:
    throttled = firmware["throttled"] or {"now": {}, "since_boot": {}}
    yield _labelled(
        "hedgerow_device_throttled",
        "Why the processor is held back: 1 where it applies now, or since boot.",
        "kind",
        throttled["now"] | {f"{kind}_since_boot": held for kind, held in throttled["since_boot"].items()},
    )
    alarm = sensors["undervoltage_now"]
    yield _gauge(
        "hedgerow_device_undervoltage",
        "1 while the 5 V input is too low.",
        throttled["now"].get("undervoltage") if alarm is None else alarm,
    )
    rails = firmware["rails"]
    for quantity in ("volts", "amps"):
        yield _labelled(
            f"hedgerow_device_rail_{quantity}",
            f"Power controller's measurement in {quantity}; the input has no current sensor.",
            "rail",
            {rail.lower(): values[quantity] for rail, values in rails.items()},
        )


def _hat(full: dict[str, Any] | None, sensors: dict[str, Any]) -> Iterator[Metric]:
    link = sensors["link"]
    yield _gauge("hedgerow_hat_link_speed_gts", "Speed of the HAT's PCIe link in GT/s.", link["speed_gts"])
    yield _gauge("hedgerow_hat_link_width", "Lanes of the HAT's PCIe link.", link["width"])
    if full is None:
        return
    hat = full["hat"]
    info = InfoMetricFamily("hedgerow_hat", "The HAT and the three versions that must agree.")
    info.add_metric(
        (),
        {
            "kind": hat["kind"],
            "driver": hat["driver_version_loaded"] or "",
            "library": hat["library_version"] or "",
            "firmware": hat["firmware_version"] or "",
        },
    )
    yield info
    yield _gauge("hedgerow_hat_mismatch", "1 if driver, library and firmware do not agree.", hat["mismatch"])
    yield _gauge("hedgerow_hat_temperature_celsius", "Temperature of the NPU.", full["thermal"]["hat_c"])
    chain = hat_chain.prove(full)
    yield _labelled(
        "hedgerow_hat_broken",
        "1 at the first broken link between PCIe bus and the chip's answer (hedgerow host explain says more).",
        "link",
        {link["link"]: link["link"] == chain["broken"] for link in chain["links"] if link["state"] != "not asked"},
    )


def _pins(pinned: Pinned, full: dict[str, Any] | None) -> Iterator[Metric]:
    running = None if full is None else full.get("kernel", {}).get("release")
    yield _gauge(
        "hedgerow_device_pins_drifted",
        "Installed packages that are not what the version lock says; 0 is well.",
        pinned.drifted(),
    )
    yield _gauge(
        "hedgerow_device_pending_kernel", "1 if the next boot takes another kernel (F46).", pinned.pending(running)
    )


def _agent(beat: heartbeat.Heartbeat | None) -> Iterator[Metric]:
    answered = None if beat is None or beat.last_answer is None else beat.last_answer.timestamp()
    yield _gauge(
        "hedgerow_device_agent_heartbeat_timestamp_seconds",
        "Last sign of life of the device's agent.",
        None if beat is None else beat.at.timestamp(),
    )
    yield _gauge(
        "hedgerow_device_agent_answer_timestamp_seconds",
        "When the model in service last answered the agent's canonical question as it should.",
        answered,
    )
    yield _gauge(
        "hedgerow_device_agent_failures",
        "Canonical questions that failed since, in a row.",
        None if beat is None else beat.failures,
    )


def _written(count: written.Written) -> Metric:
    family = CounterMetricFamily(
        "hedgerow_device_store_written_bytes",
        "Bytes that the store of models has written to the disk, by what they came from; they wear a card.",
        labels=("for",),
    )
    for kind, size in sorted(count.by.items()):
        family.add_metric((kind,), float(size))
    return family


def _apparmor() -> Metric:
    return _labelled(
        "hedgerow_device_apparmor_enforcing",
        "1 if the AppArmor profile is enforced on what it is for; 0 also where its service runs without it.",
        "profile",
        confinement.enforcing(),
    )


def _gauge(name: str, text: str, value: float | None) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text)
    if value is not None:
        family.add_metric((), float(value))
    return family


def _labelled(name: str, text: str, label: str, values: Mapping[str, float | None]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        if value is not None:
            family.add_metric((key,), float(value))
    return family
