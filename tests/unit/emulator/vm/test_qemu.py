"""The command line of the virtual board."""

from __future__ import annotations

from pathlib import Path

import pytest

from hedgerow.emulator.vm import qemu
from hedgerow.emulator.vm.qemu import Machine


def machine(**more) -> Machine:
    return Machine(
        name="pi-1",
        folder=Path("/var/pi-1"),
        sockets=Path("/run/x"),
        address="127.1.0.11",
        mac="02:00:00:00:00:01",
        forwards={2222: 22, 8443: 8443},
        **more,
    )


def run(one: Machine, snapshot: str | None = None) -> list[str]:
    return qemu.run(
        one, kernel=Path("/k"), initramfs=Path("/i"), device_tree=Path("/t"), cmdline="root=x y", snapshot=snapshot
    )


def test_ports_are_open_at_the_machine_s_own_address_alone():
    (netdev,) = [word for word in run(machine()) if word.startswith("user,")]
    assert netdev == "user,id=net0,hostfwd=tcp:127.1.0.11:2222-:22,hostfwd=tcp:127.1.0.11:8443-:8443"


def test_a_reset_ends_qemu_so_that_the_firmware_is_asked_again():
    assert "-no-reboot" in run(machine())


def test_the_device_tree_is_dumped_of_the_very_board_that_runs():
    dumped = qemu.dump_device_tree(machine(), Path("/t"))
    board = dumped[dumped.index("-M") + 1]
    assert board.endswith(",dumpdtb=/t")
    same = [word.removesuffix(",dumpdtb=/t") for word in dumped]
    assert run(machine())[: len(same)] == same


def test_a_command_line_is_one_argument():
    command = run(machine())
    assert command[command.index("-append") + 1] == "root=x y"


def test_tpm_and_second_disk_are_there_where_they_are_asked_for():
    bare, full = " ".join(run(machine())), " ".join(run(machine(tpm=True, data_disk=True)))
    assert "serial=data" not in bare
    assert "org.hedgerow.tpm" not in bare
    assert "virtio-blk-pci,drive=data,serial=data" in full
    assert "name=org.hedgerow.tpm" in full


def test_only_a_resumption_loads_a_snapshot():
    assert "-loadvm" not in run(machine())
    command = run(machine(), "booted")
    assert command[command.index("-loadvm") + 1] == "booted"


def test_a_comma_in_a_path_is_no_option():
    one = Machine(name="x", folder=Path("/a,b"), sockets=Path("/s"), address="127.0.0.2", mac="02::", forwards={})
    assert any("file=/a,,b/disk.qcow2" in word for word in run(one))


@pytest.mark.parametrize("name", ["monitor", "events", "agent", "firmware", "tpm"])
def test_socket_paths_fit(name):
    """A Unix socket's path has 107 characters at most."""
    one = Machine(
        name="x", folder=Path("/v" * 90), sockets=Path("/run/hedgerow-vm/0123456789ab"), address="", mac="", forwards={}
    )
    assert len(str(one.socket(name))) < 108
