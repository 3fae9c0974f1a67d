from __future__ import annotations

from typing import Any

import pytest

from hedgerow.converge.hat import verdict

RELEASE = {
    name: dict.fromkeys(("driver", "library", "firmware"), version)
    for name, version in (("hailo_10h", "5.1.1"), ("hailo_8", "4.23.0"))
}
HEALTHY: dict[str, Any] = {
    "kind": "hat-plus-2",
    "driver": "hailo1x_pci",
    "driver_version_loaded": "5.1.1",
    "library_version": "5.1.1",
    "firmware_version": "5.1.1",
    "architecture": "HAILO10H",
    "node": "/dev/hailo0",
    "link_speed_gts": 8.0,
    "link_width": 1,
    "mismatch": False,
    "error": None,
}
NONE = dict.fromkeys(HEALTHY) | {"kind": "none", "mismatch": False}


def problems(wanted: str = "hat-plus-2", **changes: Any) -> list[str]:
    found: list[str] = verdict({"hardware": {"hat": HEALTHY | changes}}, wanted, RELEASE)["problems"]
    return found


def test_a_healthy_chain_is_one_line() -> None:
    told = verdict({"hardware": {"hat": HEALTHY}}, "hat-plus-2", RELEASE)
    assert told["problems"] == []
    assert told["text"].startswith("HAT hat-plus-2: HAILO10H, driver 5.1.1, library 5.1.1, firmware 5.1.1, /dev/hailo0")


def test_no_hat_where_none_is_meant() -> None:
    assert verdict({"hardware": {"hat": NONE}}, "none", RELEASE) == {
        "text": "no HAT, as the inventory says",
        "problems": [],
    }


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"kind": "none"}, "40-pin header"),
        ({"kind": "hat-ai"}, "the board has hat-ai, the inventory says hat-plus-2"),
        ({"driver": "hailo_pci"}, "held by hailo_pci, hat-plus-2 needs hailo1x_pci"),
        ({"driver": None, "driver_version_loaded": None}, "held by no driver"),
        ({"library_version": "5.3.0", "mismatch": True}, "library 5.3.0"),
        ({"node": None}, "no device node"),
        ({"error": "HAILO_OUT_OF_PHYSICAL_DEVICES(74)", "architecture": None}, "does not answer"),
        ({"architecture": "HAILO15H"}, "the chip is HAILO15H"),
        (
            {"driver_version_loaded": "5.2.0", "library_version": "5.2.0", "firmware_version": "5.2.0"},
            "driver is 5.2.0, the lock says 5.1.1",
        ),
    ],
)
def test_the_first_broken_link_is_named(changes: dict[str, Any], text: str) -> None:
    found = problems(**changes)
    assert len(found) == 1
    assert text in found[0]


def test_a_chip_that_serves_is_not_broken() -> None:
    assert problems(error="HAILO_DEVICE_IN_USE(73)", architecture=None, firmware_version=None) == []


def test_an_unexpected_hat_is_told() -> None:
    assert "the inventory says none" in problems("none")[0]


def test_8_and_8l_are_told_apart_by_what_identify_says() -> None:
    versions = dict.fromkeys(("driver_version_loaded", "library_version", "firmware_version"), "4.23.0")
    board = versions | {"kind": "hat-ai", "driver": "hailo_pci", "architecture": "HAILO8"}
    assert problems("hat-plus-26", **board) == []
    assert "hat-plus-13 has HAILO8L" in problems("hat-plus-13", **board)[0]


def test_a_slow_link_is_said_and_is_no_fault() -> None:
    told = verdict({"hardware": {"hat": HEALTHY | {"link_speed_gts": 5.0}}}, "hat-plus-2", RELEASE)
    assert told["problems"] == []
    assert "slow" in told["text"]
