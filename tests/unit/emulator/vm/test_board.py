"""What the guest is told of its board: in the device tree, and as files where a kernel shows nothing."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile

import pytest

from hedgerow.emulator.board import Board
from hedgerow.emulator.hardware_root import HardwareRoot
from hedgerow.emulator.values import defaults
from hedgerow.emulator.vm import board_files, device_tree

BOARD = Board(serial="e0d1c2b3a4950011", hat="hat-plus-2", cooling="active")


@pytest.fixture
def tar(tmp_path):
    root = HardwareRoot(tmp_path, BOARD)
    root.create(defaults("hat-plus-2", "active"), "ssh-ed25519 AAAA key")

    def read(**more) -> tarfile.TarFile:
        return tarfile.open(fileobj=io.BytesIO(board_files.archive(root, "pi-1", **({"cold": True} | more))))

    return read


def test_the_tree_says_what_the_board_is():
    found = device_tree.properties(BOARD, defaults("hat-plus-2", "active"), trial=False)
    assert found["/", "serial-number"] == b"e0d1c2b3a4950011\0"
    assert found["/", "compatible"] == b"raspberrypi,5-model-b\0brcm,bcm2712\0linux,dummy-virt\0"
    assert found["/hat", "product"] == b"AI HAT+ 2\0"
    assert found["/chosen/bootloader", "tryboot"] == b"\0\0\0\0"


def test_a_trial_is_told():
    found = device_tree.properties(BOARD, defaults("none", "active"), trial=True)
    assert found["/chosen/bootloader", "tryboot"] == b"\0\0\0\1"
    assert ("/hat", "product") not in found


def test_the_real_tree_is_linked_and_not_copied(tar):
    with tar() as files:
        model = files.getmember("proc/device-tree/model")
        assert model.issym()
        assert model.linkname == "/proc/device-tree/model"


def test_the_bootloader_s_answers_are_files_that_the_guest_writes_over(tar):
    with tar() as files:
        assert files.getmember("proc/device-tree/chosen/bootloader/build-timestamp").isfile()


def test_no_command_line_is_made_up(tar):
    with tar() as files:
        assert "proc/cmdline" not in files.getnames()


def test_sensors_name_key_and_flash_are_there(tar):
    with tar() as files:
        assert files.extractfile("hostname").read() == b"pi-1\n"
        assert files.extractfile("first-boot/authorized_keys").read() == b"ssh-ed25519 AAAA key"
        assert files.extractfile("sys/class/thermal/thermal_zone0/temp").read() == b"48300\n"
        assert len(files.extractfile("factory/pieeprom.bin").read()) > 4096


def test_a_driver_is_a_link_as_in_sysfs(tar):
    with tar() as files:
        links = [name for name in files.getnames() if name.endswith("/driver")]
        assert all(files.getmember(name).issym() for name in links)


@pytest.mark.skipif(shutil.which("fdtput") is None, reason="device-tree-compiler is not installed")
def test_values_are_written_over_a_tree_and_its_seeds_go(tmp_path, monkeypatch):
    source = b'/dts-v1/;\n/ { compatible = "linux,dummy-virt"; chosen { kaslr-seed = <1 2>; rng-seed = <3>; }; };\n'
    made = subprocess.run(["dtc", "-q", "-I", "dts", "-O", "dtb"], input=source, capture_output=True, check=True).stdout
    target = tmp_path / "board.dtb"
    # QEMU would dump its own here.
    monkeypatch.setattr(device_tree.qemu, "dump_device_tree", lambda *_: ["cp", str(tmp_path / "own"), str(target)])
    (tmp_path / "own").write_bytes(made)
    device_tree.write(None, target, device_tree.properties(BOARD, defaults("hat-plus-2", "active"), trial=True))
    ask = lambda *words: subprocess.run(["fdtget", *words], capture_output=True, text=True, check=True).stdout  # noqa: E731
    assert ask("-t", "s", target, "/", "model").strip() == "Raspberry Pi 5 Model B Rev 1.1"
    assert ask("-t", "s", target, "/hat", "product").strip() == "AI HAT+ 2"
    assert ask("-t", "x", target, "/chosen/bootloader", "tryboot").strip() == "1"
    assert ask("-p", target, "/chosen").split() == []
