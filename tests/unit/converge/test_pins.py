from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.unit.release.lock import GOOD as RELEASE

from hedgerow.converge import pins

HATS = ("none", "hat-plus-2", "hat-plus-13", "hat-plus-26")
_NO_HAILO = {"driver": None, "library": None, "firmware": None, "packages": {}}
OPEN: dict[str, Any] = RELEASE | {
    "kernel": dict.fromkeys(RELEASE["kernel"]),
    "headers": dict.fromkeys(RELEASE["headers"]),
    "raspi_firmware": {"version": None},
    "eeprom": dict.fromkeys(RELEASE["eeprom"]),
    "dkms": {"version": None},
    "hailo_10h": _NO_HAILO,
    "hailo_8": _NO_HAILO,
}
OLDER: dict[str, Any] = RELEASE | {
    "kernel": RELEASE["kernel"] | {"version": "6.18.34", "deb": "1:6.18.34-1+rpt1"},
    "headers": RELEASE["headers"] | {"deb": "1:6.18.34-1+rpt1"},
}
MENDERISED: dict[str, Any] = RELEASE | {"mender_client": RELEASE["mender_client"] | {"integration": "rootfs"}}
BOARD = {
    "linux-image-rpi-2712": "1:6.18.50-1+rpt1",
    "linux-image-6.18.50+rpt-rpi-2712": "1:6.18.50-1+rpt1",
    "linux-headers-rpi-2712": "1:6.18.50-1+rpt1",
    "linux-headers-6.18.50+rpt-rpi-2712": "1:6.18.50-1+rpt1",
    "linux-headers-6.18.50+rpt-common-rpi": "1:6.18.50-1+rpt1",
    "linux-kbuild-6.18.50+rpt": "1:6.18.50-1+rpt1",
    "raspi-firmware": "1:1.20260915-1",
    "rpi-eeprom": "28.28-1",
    "dkms": "3.2.2-1~deb13u1",
    **RELEASE["hailo_10h"]["packages"],
    "mender-client": "3.4.0+ds1-5+b15",
    "bash": "5.2.37-2",
}


def facts(packages: dict[str, str], kernel: str | None = "6.18.50+rpt-rpi-2712") -> dict[str, Any]:
    return {"packages": packages, "hardware": {"kernel": {"release": kernel}}}


def policy(release: dict[str, Any], hat: str, tmp_path: Path, package: str) -> str:
    """What apt says of ``package`` under these pins: their syntax is apt's to judge."""
    file = tmp_path / "pref"
    stanzas = (
        f"Package: {' '.join(pin['packages'])}\nPin: {pin['pin']}\nPin-Priority: {pin['priority']}\n"
        for pin in pins.pins(release, hat)
    )
    file.write_text("\n".join(stanzas), encoding="utf-8")
    options = [f"Dir::Etc::Preferences={file}", "Dir::Etc::PreferencesParts=/dev/null"]
    command = ["apt-cache", *(word for option in options for word in ("-o", option)), "policy", package]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "hat, wanted, version, blocked",
    [
        ("hat-plus-2", "h10-hailort", "5.1.1", "hailo-all"),
        ("hat-plus-26", "hailort", "4.23.0", "hailo-h10-all"),
        ("hat-plus-13", "hailort-pcie-driver", "4.23.0", "h10-hailort"),
    ],
)
def test_the_other_npus_stack_is_blocked(hat: str, wanted: str, version: str, blocked: str) -> None:
    stanzas = pins.pins(RELEASE, hat)
    assert [pin["pin"] for pin in stanzas if wanted in pin["packages"]] == [f"version {version}", "release *"]
    assert [pin["priority"] for pin in stanzas if blocked in pin["packages"]] == [-1]


def test_the_library_of_a_newer_set_is_not_blocked_by_its_name() -> None:
    """Hailo's own 5.4 calls its library `hailort`, as 4.23 is called."""
    own = RELEASE["hailo_10h"] | {"packages": {"hailort": "5.4.0", "h10-hailort-pcie-driver": "5.4.0"}}
    stanzas = pins.pins(RELEASE | {"hailo_10h": own}, "hat-plus-2")
    assert [pin["pin"] for pin in stanzas if "hailort" in pin["packages"]] == ["version 5.4.0", "release *"]
    assert "hailort" not in stanzas[-1]["packages"]
    assert "hailort-pcie-driver" in stanzas[-1]["packages"]


@pytest.mark.parametrize("hat", HATS)
def test_no_package_is_both_wanted_and_blocked(hat: str) -> None:
    *_, everything, blocked = [set(pin["packages"]) for pin in pins.pins(RELEASE, hat)]
    if hat == "none":
        blocked = set()
    assert not blocked & set(pins.locked(RELEASE, hat))
    assert blocked != everything


def test_a_null_in_the_lock_pins_nothing() -> None:
    assert {name for pin in pins.pins(OPEN, "none") for name in pin["packages"]} == {"mender-client"}


@pytest.mark.parametrize("hat", HATS)
def test_apt_understands_the_pins(hat: str, tmp_path: Path) -> None:
    lock = RELEASE | {"mender_client": RELEASE["mender_client"] | {"variant": "upstream"}}
    assert "Candidate" in policy(lock, hat, tmp_path, "bash")


def test_a_rebuild_of_the_locked_version_is_that_version(tmp_path: Path) -> None:
    """Seen by apt itself, with the machine's bash in the place of Mender's client."""
    have = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "bash"], capture_output=True, text=True, check=True
    ).stdout
    plain = have.partition("+b")[0]
    pattern = pins._pattern(plain)  # apt's own dialect is what is tested
    file = tmp_path / "pref"
    file.write_text(f"Package: bash\nPin: version {pattern}\nPin-Priority: 1234\n", encoding="utf-8")
    shown = subprocess.run(
        ["apt-cache", "-o", f"Dir::Etc::Preferences={file}", "policy", "bash"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"*** {have} 1234" in shown
    assert pins.same(plain, have)
    assert not pins.same(plain, have + "0.1")


def test_f06_headers_and_kernel_are_held_and_moved_together() -> None:
    """A held kernel beside unheld headers is the usual way to lose the driver."""
    found = pins.holds(RELEASE, "hat-plus-2", BOARD, ["h10-hailort"])
    kernel = {name for name in BOARD if name.startswith("linux-")}
    assert kernel < set(found["hold"])
    assert {"raspi-firmware", "rpi-eeprom", "dkms", "h10-hailort-pcie-driver"} < set(found["hold"])
    assert not {"bash", "h10-hailort"} & set(found["hold"])
    moved = [one for one in pins.transactions(OLDER, "hat-plus-2", BOARD) if one["name"] == "kernel"]
    assert {"linux-image-rpi-2712", "linux-headers-rpi-2712"} <= set(moved[0]["install"])


def test_holds_of_kernels_that_the_lock_left_are_released() -> None:
    packages = BOARD | {"linux-image-6.18.34+rpt-rpi-2712": "1:6.18.34-1+rpt1"}
    found = pins.holds(RELEASE, "none", packages, [*packages, "bash"])
    assert found == {"hold": [], "release": ["linux-image-6.18.34+rpt-rpi-2712"]}
    assert pins.holds(OPEN, "none", packages, ["linux-image-6.18.34+rpt-rpi-2712"])["release"] == []


def test_what_is_installed_is_what_is_pinned() -> None:
    assert pins.drift(RELEASE, "hat-plus-2", facts(BOARD)) == []
    assert pins.transactions(RELEASE, "hat-plus-2", BOARD) == []


@pytest.mark.parametrize(
    "packages, kernel, text",
    [
        ({"h10-hailort": "5.3.0"}, "6.18.50+rpt-rpi-2712", "h10-hailort is 5.3.0, the lock says 5.1.1"),
        ({"h10-hailort": "5.1.10"}, "6.18.50+rpt-rpi-2712", "h10-hailort is 5.1.10"),
        ({"hailort": "4.23.0"}, "6.18.50+rpt-rpi-2712", "hailort is installed"),
        ({"mender-client": "4.0.0-1"}, "6.18.50+rpt-rpi-2712", "mender-client is 4.0.0-1"),
        ({"linux-image-6.20.1+rpt-rpi-2712": "6.20.1-1+rpt1"}, "6.18.50+rpt-rpi-2712", "firmware boots the newest"),
        ({}, "6.12.75+rpt-rpi-2712", "the lock says 6.18.50"),
        ({}, "6.18.50+rpt-rpi-v8", "page size"),
    ],
)
def test_drift_is_told(packages: dict[str, str], kernel: str, text: str) -> None:
    found = pins.drift(RELEASE, "hat-plus-2", facts(packages, kernel))
    assert len(found) == 1
    assert text in found[0]


def test_f43_a_kernel_of_another_distribution_is_told() -> None:
    assert "not Raspberry Pi's (F43)" in pins.drift(RELEASE, "hat-plus-2", facts(BOARD, "6.12.48+deb13-arm64"))[0]


def test_f46_a_kernel_that_waits_for_a_reboot_is_no_drift_and_is_said() -> None:
    packages = BOARD | {"linux-image-6.18.34+rpt-rpi-2712": "1:6.18.34-1+rpt1"}
    running_old = facts(packages, "6.18.34+rpt-rpi-2712")
    assert pins.drift(RELEASE, "hat-plus-2", running_old) == []
    assert "waits for a reboot (F46)" in " ".join(pins.remarks(running_old, RELEASE, "hat-plus-2"))


def test_f01_driver_and_library_are_one_transaction() -> None:
    newer = RELEASE["hailo_10h"] | {"packages": dict.fromkeys(RELEASE["hailo_10h"]["packages"], "5.2.0")}
    (only,) = pins.transactions(RELEASE | {"hailo_10h": newer}, "hat-plus-2", BOARD)
    assert only["name"] == "HAT"
    assert only["install"] == newer["packages"]


def test_a_half_installed_set_is_brought_back_whole() -> None:
    (only,) = pins.transactions(RELEASE, "hat-plus-2", BOARD | {"h10-hailort": "5.3.0"})
    assert only["install"] == RELEASE["hailo_10h"]["packages"]


def test_the_way_back_removes_what_firmware_would_boot() -> None:
    (only,) = pins.transactions(OLDER, "hat-plus-2", BOARD)
    assert only["install"]["linux-image-rpi-2712"] == "1:6.18.34-1+rpt1"
    assert "linux-image-6.18.50+rpt-rpi-2712" in only["remove"]
    assert "linux-image-6.18.50+rpt-rpi-2712" not in only["install"]


def test_bootloader_before_kernel_before_driver() -> None:
    packages = dict.fromkeys(BOARD, "0")
    order = [one["name"] for one in pins.transactions(RELEASE, "hat-plus-2", packages)]
    assert order == ["bootloader", "kernel", "boot files", "dkms", "HAT", "Mender"]


def test_f24_a_menderised_host_gets_no_kernel_from_apt() -> None:
    lock = OLDER | {"mender_client": MENDERISED["mender_client"]}
    planned = pins.transactions(lock, "hat-plus-2", BOARD)
    assert "artifact" in pins.not_by_apt(lock, planned)[0]
    assert pins.not_by_apt(OLDER, planned) == []
    assert pins.not_by_apt(MENDERISED, pins.transactions(MENDERISED, "hat-plus-2", BOARD)) == []


def test_remarks_name_what_nothing_checks() -> None:
    found = " ".join(pins.remarks(facts({}), OPEN, "none"))
    assert "pins no kernel" in found
    assert "pins no eeprom" in found
    assert "not checked: mender-client" in found
    pinned = " ".join(pins.remarks(facts({}), RELEASE, "none"))
    assert "not checked: dkms, linux-headers-rpi-2712, linux-image-rpi-2712" in pinned
