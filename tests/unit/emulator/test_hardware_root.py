from __future__ import annotations

from pathlib import Path

import pytest

from hedgerow.emulator import values as live
from hedgerow.emulator.board import Board
from hedgerow.emulator.hardware_root import HardwareRoot


@pytest.fixture
def root(tmp_path: Path) -> HardwareRoot:
    root = HardwareRoot(tmp_path / "pi", Board(serial="00000000deadbeef", hat="hat-plus-2", cooling="active"))
    root.create(live.defaults("hat-plus-2", "active"), "ssh-ed25519 AAAA first contact\n")
    return root


def test_values_survive(root: HardwareRoot) -> None:
    assert HardwareRoot(root.folder, root.board).read() == live.defaults("hat-plus-2", "active")


def test_what_the_guest_wrote_stays(root: HardwareRoot) -> None:
    (root.path / "console").mkdir()
    (root.path / "console/ssh_host_ed25519_key.pub").write_text("ssh-ed25519 BBBB")
    (root.path / "proc/cmdline").write_text("console=tty1")
    root.write(root.read())
    assert (root.path / "console/ssh_host_ed25519_key.pub").read_text() == "ssh-ed25519 BBBB"
    assert (root.path / "proc/cmdline").read_text() == "console=tty1"
    assert (root.path / "first-boot/authorized_keys").read_text() == "ssh-ed25519 AAAA first contact\n"


def test_the_mark_of_a_cold_boot_stays_until_the_guest_takes_it(root: HardwareRoot) -> None:
    root.mark_cold_boot()
    root.write(root.read())
    assert (root.path / "power/cold-boot").is_file()


def test_the_kernel_is_the_guests_to_tell_unless_a_value_overrides_it(root: HardwareRoot) -> None:
    running = root.path / "proc/sys/kernel/osrelease"
    running.write_text("6.18.34+rpt-rpi-2712\n")
    root.write(root.read())
    assert running.read_text() == "6.18.34+rpt-rpi-2712\n"
    root.write(root.read() | {"kernel_release": "6.18.50+rpt-rpi-v8"})
    assert running.read_text() == "6.18.50+rpt-rpi-v8\n"


def test_what_the_board_lost_goes_and_comes_back(root: HardwareRoot) -> None:
    vendor = root.path / "sys/bus/pci/devices/0001:01:00.0/vendor"
    assert vendor.read_text() == "0x1e60\n"
    healthy = root.read()
    root.write(healthy | {"hat_present": False})
    assert not (root.path / "sys/bus").exists()
    root.write(healthy)
    assert vendor.exists()


def test_what_the_guests_driver_shows_stays(root: HardwareRoot) -> None:
    shown = [root.path / name for name in ("dev/hailo0", "proc/modules", "sys/module/hailo1x_pci/version")]
    for file in shown:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("5.1.1\n")
    root.write(root.read() | {"hat_present": False})
    assert all(file.exists() for file in shown)


def test_no_temporary_file_is_left(root: HardwareRoot) -> None:
    root.write(root.read() | {"temperature_c": 80.0})
    assert not [file for file in root.path.rglob("*") if file.name.startswith(".")]


def test_create_forgets_the_former_board(root: HardwareRoot) -> None:
    (root.path / "console").mkdir()
    (root.path / "console/ssh_host_ed25519_key.pub").write_text("old")
    root.create(root.read(), "ssh-ed25519 CCCC\n")
    assert not (root.path / "console").exists()
