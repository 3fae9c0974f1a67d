from __future__ import annotations

from typing import Any

from hedgerow.converge.reboot import pending_kernel, reasons


def facts(
    cmdline: list[str], changed: list[str] | None = None, packages: dict[str, str] | None = None
) -> dict[str, Any]:
    return {
        "hardware": {"kernel": {"release": "6.12.75+rpt-rpi-2712", "cmdline": cmdline}},
        "state": {"boot": {"changed_since_boot": changed or []}},
        "packages": packages or {},
    }


def test_nothing_waits() -> None:
    assert reasons(facts(["psi=1"]), ["psi=1"], []) == []


def test_what_this_run_wrote_waits() -> None:
    assert reasons(facts([]), ["psi=1"], ["/boot/firmware/cmdline.txt"]) == ["cmdline.txt changed since it booted"]


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
