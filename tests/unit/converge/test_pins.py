from __future__ import annotations

from typing import Any

import pytest

from hedgerow.converge import pins

RELEASE: dict[str, Any] = {
    "name": "2026.10",
    "kernel": {"package": "linux-image-rpi-2712", "version": "6.18.50", "flavour": "rpi-2712"},
    "eeprom": {"channel": "default", "minimum": "2025-05-08"},
    "hailort": {"driver": "5.1.1", "library": "5.1.1", "firmware": "5.1.1"},
    "mender_client": {"version": "3.4.0+ds1-5"},
}
OPEN: dict[str, Any] = RELEASE | {
    "kernel": {"package": None, "version": None, "flavour": None},
    "eeprom": {"channel": None, "minimum": None},
    "hailort": {"driver": None, "library": None, "firmware": None},
}


def facts(packages: dict[str, str], kernel: str | None = "6.18.50+rpt-rpi-2712") -> dict[str, Any]:
    return {"packages": packages, "hardware": {"kernel": {"release": kernel}}}


@pytest.mark.parametrize(
    "hat, wanted, blocked",
    [("hat-plus-2", "hailo-h10-all", "hailo-all"), ("hat-plus-26", "hailort", "hailo-h10-all")],
)
def test_the_other_npus_stack_is_blocked(hat: str, wanted: str, blocked: str) -> None:
    by_priority = {pin["priority"]: pin for pin in pins.pins(RELEASE, hat) if "hailo" in " ".join(pin["packages"])}
    assert wanted in by_priority[1001]["packages"]
    assert by_priority[1001]["pin"] == "version 5.1.1*"
    assert blocked in by_priority[-1]["packages"]


def test_no_package_is_both_wanted_and_blocked() -> None:
    for hat in ("none", "hat-plus-2", "hat-plus-13", "hat-plus-26"):
        stanzas = pins.pins(RELEASE, hat)
        names = [name for pin in stanzas for name in pin["packages"]]
        assert len(names) == len(set(names))


def test_a_null_in_the_lock_pins_nothing() -> None:
    assert [pin["packages"] for pin in pins.pins(OPEN, "none")] == [("mender-client",)]


def test_holds_are_of_what_is_installed_and_not_held_yet() -> None:
    packages = {
        "linux-image-rpi-2712": "1",
        "linux-image-6.18.50+rpt-rpi-2712": "1",
        "linux-headers-6.18.50+rpt-common-rpi": "1",
        "linux-image-6.12.75+rpt-rpi-2712": "1",
        "h10-hailort": "5.1.1",
        "bash": "5",
    }
    assert pins.to_hold(RELEASE, packages, ["h10-hailort"]) == [
        "linux-headers-6.18.50+rpt-common-rpi",
        "linux-image-6.18.50+rpt-rpi-2712",
        "linux-image-rpi-2712",
    ]
    assert pins.to_hold(OPEN, packages, []) == []


def test_what_is_installed_is_what_is_pinned() -> None:
    packages = {"mender-client": "3.4.0+ds1-5+b15", "h10-hailort": "5.1.1", "python3-h10-hailort": "5.1.1-1"}
    assert pins.drift(RELEASE, "hat-plus-2", facts(packages)) == []


@pytest.mark.parametrize(
    "packages, kernel, text",
    [
        ({"h10-hailort": "5.3.0"}, "6.18.50+rpt-rpi-2712", "h10-hailort is 5.3.0, the lock says 5.1.1"),
        ({"hailort": "4.23.0"}, "6.18.50+rpt-rpi-2712", "hailort is installed"),
        ({"mender-client": "4.0.0-1"}, "6.18.50+rpt-rpi-2712", "mender-client is 4.0.0-1"),
        ({}, "6.12.75+rpt-rpi-2712", "the lock says 6.18.50"),
        ({}, "6.18.50+rpt-rpi-v8", "page size"),
    ],
)
def test_drift_is_told(packages: dict[str, str], kernel: str, text: str) -> None:
    found = pins.drift(RELEASE, "hat-plus-2", facts(packages, kernel))
    assert len(found) == 1
    assert text in found[0]


def test_remarks_name_what_nothing_checks() -> None:
    found = " ".join(pins.remarks(facts({}), OPEN, "none"))
    assert "pins no kernel" in found
    assert "pins no bootloader" in found
    assert "not checked: mender-client" in found
