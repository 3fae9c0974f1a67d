"""The virtual machine is the board that the inventory describes, to its kernel and to whoever reads hardware."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hedgerow.device import hardware

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


@pytest.fixture(scope="module")
def read(vm):
    """What `hedgerow.device.hardware` finds, in the system's Python as the controller sends it."""
    source = Path(hardware.__file__).read_text(encoding="utf-8")
    done = vm.fleet.hosts[vm.name].run(
        ["/usr/bin/python3", "-"], stdin=(source + "\nimport json\nprint(json.dumps(read()))\n").encode()
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_architecture_and_page_size_are_a_pi_s(vm):
    assert vm.root("uname -m").strip() == "aarch64"
    assert int(vm.root("getconf PAGE_SIZE")) == vm.inventory.release.kernel.page_size == 16384


def test_the_kernel_itself_shows_model_serial_and_hat(vm):
    assert vm.root("tr -d '\\0' </proc/device-tree/model") == "Raspberry Pi 5 Model B Rev 1.1"
    assert vm.root("tr -d '\\0' </proc/device-tree/serial-number") == vm.host.serial
    assert vm.root("tr -d '\\0' </proc/device-tree/hat/product") == "AI HAT+ 2"


def test_hardware_is_read_from_it(vm, read):
    assert read["board"]["serial"] == vm.host.serial
    assert read["board"]["is_pi5"] is True
    assert read["board"]["memory_mb"] == 8192
    assert read["kernel"]["page_size"] == 16384
    assert read["hat"]["kind"] == vm.host.hat


def test_the_command_line_is_the_kernel_s_and_has_what_the_boot_partition_says(vm, read):
    assert read["kernel"]["cmdline"] == vm.root("cat /proc/cmdline").split()
    written = set(vm.root("head -n 1 /boot/firmware/cmdline.txt").split())
    assert {word for word in written if not word.startswith("console=")} <= set(read["kernel"]["cmdline"])


def test_apparmor_enforces_because_the_command_line_says_so(vm, read):
    """The role writes lsm=; a container's kernel never reads it."""
    assert "apparmor" in read["kernel"]["lsm"]
    assert vm.root("cat /sys/module/apparmor/parameters/enabled").strip() == "Y"
    assert "(enforce)" in vm.root("cat /sys/kernel/security/apparmor/profiles")


def test_memory_cgroups_and_pressure_figures_are_there(vm):
    """F16: both are off on a Pi until cmdline.txt asks for them."""
    assert "memory" in vm.root("cat /sys/fs/cgroup/cgroup.controllers").split()
    assert vm.root("head -n 1 /proc/pressure/memory").startswith("some avg10=")


def test_live_values_are_seen_while_it_runs(vm):
    before = vm.fleet.values(vm.name)["temperature_c"]
    try:
        vm.fleet.set_values(vm.name, temperature_c=81.5)
        assert vm.root("vcgencmd measure_temp").strip() == "temp=81.5'C"
        assert vm.root("cat /hardware/sys/class/thermal/thermal_zone0/temp").strip() == "81500"
    finally:
        vm.fleet.set_values(vm.name, temperature_c=before)


def test_a_tpm_and_a_second_disk_are_there_where_the_inventory_wants_them(vm):
    has_tpm, has_disk = vm.board.tpm, bool(vm.board.data_disk_mb)
    assert (vm.run("test -c /dev/tpmrm0").returncode == 0) is has_tpm
    assert (vm.run("test -b /dev/disk/by-id/virtio-data").returncode == 0) is has_disk
