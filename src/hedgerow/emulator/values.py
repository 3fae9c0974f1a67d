"""The live values of an emulated board: what a test may change while the host runs.

One table (``KEYS``) says for each key what it stands for, how it is written and
what a healthy board shows. ``hedgerow emulate set`` and ``EmulatedFleet.set_values``
take these keys and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hedgerow.errors import UsageError

Value = str | int | float | bool | None
Values = dict[str, Value]

HATS = ("none", "hat-plus-13", "hat-plus-26", "hat-plus-2")

# What installed packages and the boot make of it, unless a value is set.
AUTO = "auto"
# What the HAT does wrong, whatever is installed (facts §8): F39, F9, F8, F19, F20. The first two at its next start.
HAT_FAULTS = ("no-msi", "firmware-timeout", "communication-closed", "in-use", "out-of-devices", "out-of-cma")


@dataclass(frozen=True, slots=True)
class Key:
    """One live value: ``parse`` turns the operator's text into a value or raises ValueError."""

    parse: Callable[[str], Value]
    form: str
    help: str
    hat: bool = False


def _number(low: float, high: float) -> Callable[[str], Value]:
    def parse(text: str) -> Value:
        value = float(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return parse


def _optional(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    return lambda text: None if text.lower() in {"none", ""} else parse(text)


def _integer(low: int, high: int) -> Callable[[str], Value]:
    def parse(text: str) -> Value:
        value = int(text, 0)
        if not low <= value <= high:
            raise ValueError
        return value

    return parse


def _boolean(text: str) -> Value:
    try:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
    except KeyError as error:
        raise ValueError from error


def _hex(text: str) -> Value:
    value = int(text, 16)
    # Bits 0-3 now, 16-19 since boot (facts §6.1).
    if value & ~0xF000F:
        raise ValueError
    return f"{value:#x}"


def _version(text: str) -> Value:
    if not re.fullmatch(r"\d+\.\d+\.\d+", text):
        raise ValueError
    return text


def _auto(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    return lambda text: AUTO if text == AUTO else parse(text)


def _kernel_release(text: str) -> Value:
    if not re.fullmatch(r"\d+\.\d+\.\d+\+rpt-rpi-(2712|v8)", text):
        raise ValueError
    return text


def _choice(*allowed: str) -> Callable[[str], Value]:
    def parse(text: str) -> Value:
        if text not in allowed:
            raise ValueError
        return text

    return parse


KEYS: Mapping[str, Key] = {
    "temperature_c": Key(_number(-40, 125), "-40…125", "SoC temperature"),
    "pmic_temperature_c": Key(_number(-40, 125), "-40…125", "power-management chip temperature"),
    "throttled": Key(_hex, "hex, bits 0-3 and 16-19", "vcgencmd get_throttled"),
    "undervoltage": Key(_boolean, "true|false", "bit 0 of throttled (true also sets bit 16) and the rpi_volt alarm"),
    "fan_rpm": Key(_optional(_integer(0, 20000)), "0…20000|none", "fan speed; none: no fan"),
    "cpu_freq_mhz": Key(_integer(100, 3000), "100…3000", "current CPU frequency"),
    "ext5v_volts": Key(_number(0, 6), "0…6", "the 5 V input as the PMIC sees it"),
    "psu_max_current_ma": Key(_integer(0, 10000), "0…10000", "what the power supply negotiated"),
    "memory_available_mb": Key(
        _optional(_integer(0, 16384)), "0…16384|none", "free memory to report; none: the container's own"
    ),
    "clock_synced": Key(_boolean, "true|false", "whether the clock is synchronised"),
    "kernel_release": Key(
        _optional(_kernel_release), "N.N.N+rpt-rpi-2712|…-v8|none", "running kernel; none: what the next boot loads"
    ),
    "eeprom_staged": Key(
        _choice("any", "cold"), "any|cold", "which boots write a staged bootloader update; cold: a warm one discards it"
    ),
    "hat_present": Key(_boolean, "true|false", "false: the HAT is off the PCIe bus", hat=True),
    "hat_eeprom": Key(_boolean, "true|false", "false: the 40-pin header is not seated", hat=True),
    "driver_bound": Key(_choice(AUTO, "false"), "auto|false", "false: no module has it, whatever is there", hat=True),
    "driver_version": Key(_auto(_version), "auto|N.N.N", "version of the loaded kernel module", hat=True),
    "library_version": Key(_auto(_version), "auto|N.N.N", "version of libhailort and hailortcli", hat=True),
    "firmware_version": Key(_auto(_version), "auto|N.N.N", "version of the firmware on the chip", hat=True),
    "node": Key(_choice(AUTO, "hailo0", "h1x-0"), "auto|hailo0|h1x-0", "device node; h1x-0 from 5.3.0 on", hat=True),
    "hat_fault": Key(_choice("none", *HAT_FAULTS), f"none|{'|'.join(HAT_FAULTS)}", "what the HAT does wrong", hat=True),
    "link_speed_gts": Key(_choice("2.5", "5.0", "8.0"), "2.5|5.0|8.0", "PCIe link speed", hat=True),
    "link_width": Key(_integer(0, 4), "0…4", "PCIe lanes", hat=True),
    "hat_temperature_c": Key(_optional(_number(-40, 150)), "-40…150|none", "NPU temperature", hat=True),
}


def defaults(hat: str, cooling: str) -> Values:
    """A healthy board: idle, cool, on a 27 W supply; its HAT runs what the host has installed."""
    values: Values = {
        "temperature_c": 48.3 if cooling == "active" else 56.7,
        "pmic_temperature_c": 49.9,
        "throttled": "0x0",
        "undervoltage": False,
        "fan_rpm": 2870 if cooling == "active" else None,
        "cpu_freq_mhz": 1500,
        "ext5v_volts": 5.11478,
        "psu_max_current_ma": 5000,
        "memory_available_mb": None,
        "clock_synced": True,
        "kernel_release": None,
        "eeprom_staged": "any",
    }
    if hat != "none":
        values |= {
            "hat_present": True,
            "hat_eeprom": True,
            "driver_bound": AUTO,
            "driver_version": AUTO,
            "library_version": AUTO,
            "firmware_version": AUTO,
            "node": AUTO,
            "hat_fault": "none",
            "link_speed_gts": "8.0",
            "link_width": 1,
            "hat_temperature_c": 52.4,
        }
    return values


def changed(current: Values, settings: Mapping[str, str], *, host: str) -> Values:
    """``current`` with ``settings`` applied; UsageError names a wrong key or value and what is allowed.

    ``undervoltage`` and bit 0 of ``throttled`` are one thing on a board, so they stay one here.
    """
    values = dict(current)
    for key, text in settings.items():
        if key not in KEYS:
            raise UsageError(
                f"unknown live value {key!r}", where=host, next_step=f"use one of: {', '.join(sorted(current))}"
            )
        if key not in current:
            raise UsageError(f"{host} has no HAT, so {key} means nothing there", where=host)
        try:
            values[key] = KEYS[key].parse(text)
        except ValueError as error:
            raise UsageError(
                f"{key} cannot be {text!r}", where=host, next_step=f"write {key}={KEYS[key].form} ({KEYS[key].help})"
            ) from error
        if key == "undervoltage":
            bits = int(str(values["throttled"]), 16)
            values["throttled"] = f"{bits | 0x10001 if values[key] else bits & ~1:#x}"
        elif key == "throttled":
            values["undervoltage"] = bool(int(str(values[key]), 16) & 1)
    return values


def after_power_on(values: Values) -> Values:
    """The same board after its power came back: bits "since boot" start from what is true now."""
    now = int(str(values["throttled"]), 16) & 0xF
    return values | {"throttled": f"{now | now << 16:#x}"}
