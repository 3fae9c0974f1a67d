from __future__ import annotations

from typing import Any

import pytest

from hedgerow.converge.reboot import in_window, pending_kernel, reasons
from hedgerow.errors import UsageError


def facts(
    cmdline: list[str],
    changed: list[str] | None = None,
    packages: dict[str, str] | None = None,
    staged: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "hardware": {
            "kernel": {"release": "6.12.75+rpt-rpi-2712", "cmdline": cmdline},
            "eeprom": {"bootloader_timestamp": 1, "config": "A=1\n"},
        },
        "state": {"boot": {"changed_since_boot": changed or []}, "eeprom": {"staged": staged}},
        "packages": packages or {},
    }


def test_nothing_waits() -> None:
    assert reasons(facts(["psi=1"]), ["psi=1"], []) == []


def test_what_this_run_wrote_waits() -> None:
    assert reasons(facts([]), ["psi=1"], ["/boot/firmware/cmdline.txt"]) == ["cmdline.txt changed since it booted"]


def test_other_files_need_no_reboot() -> None:
    assert reasons(facts(["psi=1"]), ["psi=1"], ["/etc/default/rpi-eeprom-update"]) == []


def test_a_bootloader_that_this_run_wrote_waits() -> None:
    assert reasons(facts([]), [], [], bootloader_written=True) == ["a bootloader update waits"]


def test_what_an_earlier_run_wrote_still_waits() -> None:
    assert reasons(facts(["psi=1"], ["config.txt"]), ["psi=1"], []) == ["config.txt changed since it booted"]


def test_a_kernel_without_our_tokens_waits() -> None:
    assert reasons(facts(["quiet"]), ["psi=1"], []) == ["its kernel was started without psi=1"]


def test_f46_a_newer_kernel_of_the_same_flavour_waits() -> None:
    """needrestart is told by Raspberry Pi OS never to say it."""
    packages = dict.fromkeys(
        ("linux-image-rpi-2712", "linux-image-6.12.75+rpt-rpi-2712", "linux-image-6.18.9+rpt-rpi-2712"), "1"
    )
    assert pending_kernel("6.12.75+rpt-rpi-2712", packages) == "6.18.9+rpt-rpi-2712"
    assert pending_kernel("6.18.9+rpt-rpi-2712", packages) is None


def test_versions_are_numbers_and_flavours_are_kept_apart() -> None:
    packages = dict.fromkeys(
        ("linux-image-6.9.1+rpt-rpi-2712", "linux-image-6.18.9+rpt-rpi-2712", "linux-image-6.20.1+rpt-rpi-v8"), "1"
    )
    assert pending_kernel("6.18.9+rpt-rpi-2712", packages) is None
    assert pending_kernel("6.18.9+rpt-rpi-v8", packages) == "6.20.1+rpt-rpi-v8"


def test_f46_an_older_kernel_waits_once_the_running_one_is_gone() -> None:
    packages = dict.fromkeys(("linux-image-rpi-2712", "linux-image-6.18.34+rpt-rpi-2712"), "1")
    assert pending_kernel("6.18.50+rpt-rpi-2712", packages) == "6.18.34+rpt-rpi-2712"


def test_a_kernel_of_another_system_is_followed_by_its_own_kind() -> None:
    packages = dict.fromkeys(("linux-image-6.12.48+deb13-arm64", "linux-image-6.18.50+rpt-rpi-2712"), "1")
    assert pending_kernel("6.12.48+deb13-arm64", packages) is None
    assert pending_kernel("6.12.41+deb13-arm64", packages) == "6.12.48+deb13-arm64"


def test_an_unknown_release_waits_for_nothing() -> None:
    assert pending_kernel(None, {"linux-image-6.9.1+rpt-rpi-2712": "1"}) is None


def test_a_staged_bootloader_waits_until_a_boot_has_had_its_chance() -> None:
    staged = {"timestamp": 2, "config": "A=1\n", "before_this_boot": False}
    assert reasons(facts([], staged=staged), [], []) == ["a bootloader update waits"]
    assert reasons(facts([], staged=staged | {"before_this_boot": True}), [], []) == []
    assert reasons(facts([], staged=staged | {"timestamp": 1}), [], []) == [], "it runs"


@pytest.mark.parametrize(
    "window, now, inside",
    [
        (None, "12:00", True),
        ("", "12:00", True),
        ("02:00-04:30", "02:00", True),
        ("02:00-04:30", "04:29", True),
        ("02:00-04:30", "04:30", False),
        ("22:00-05:00", "23:59", True),
        ("22:00-05:00", "04:59", True),
        ("22:00-05:00", "12:00", False),
    ],
)
def test_window(window: str | None, now: str, *, inside: bool) -> None:
    assert in_window(window, now) is inside


@pytest.mark.parametrize("window", ["2-4", "02:00", "25:00-26:00", "02:00-04:60"])
def test_a_window_that_is_none_is_refused(window: str) -> None:
    with pytest.raises(UsageError, match="is no window"):
        in_window(window, "12:00")
