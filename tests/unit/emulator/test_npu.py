"""The kernel's part in a HAT, run as it is in a guest; only kmod's answers are the test's."""

from __future__ import annotations

import json

import pytest


def modules(guest) -> list[str]:
    return [line.split()[0] for line in (guest.hardware / "proc/modules").read_text().splitlines()]


def identify(guest):
    return guest.run("hailortcli", "fw-control", "identify")


@pytest.fixture
def pi(hat_guest):
    guest = hat_guest("hat-plus-2")
    guest.install("hailo1x_pci", "5.1.1")
    return guest


def ready(guest) -> None:
    guest.boot()
    (guest.folder / "devices/hailo0").chmod(0o666)


def test_a_cold_boot_loads_firmware_and_a_warm_one_finds_it(pi) -> None:
    pi.boot()
    assert "Firmware loaded in 6504 ms" in pi.log()
    assert "Probing: Added board 1e60-45c4, /dev/hailo0" in pi.log()
    pi.boot(cold=False)
    assert "SOC Firmware batch was already loaded" in pi.log()
    assert "Writing file" not in pi.log()


def test_the_module_is_the_driver_under_another_name(pi) -> None:
    pi.boot()
    driver = pi.hardware / "sys/bus/pci/devices/0001:01:00.0/driver"
    assert driver.readlink().name == "hailo1x"
    assert (driver / "module").readlink().name == "hailo1x_pci"
    assert (pi.hardware / "sys/module/hailo1x_pci/version").read_text() == "5.1.1\n"


def test_identify_says_what_runs(pi) -> None:
    ready(pi)
    assert "Firmware Version: 5.1.1 (release,app)\n" in identify(pi).stdout
    assert "Device Architecture: HAILO10H\n" in identify(pi).stdout


def test_f05_the_other_chips_driver_binds_nothing_and_says_nothing(hat_guest) -> None:
    guest = hat_guest("hat-plus-2")
    guest.install("hailo_pci", "4.23.0")
    guest.boot()
    assert modules(guest) == []
    assert guest.npu("modprobe", "hailo_pci").returncode == 0
    assert modules(guest) == ["hailo_pci"]
    assert not list((guest.hardware / "dev").glob("hailo*"))
    assert (identify(guest).returncode, identify(guest).stdout) == (0, "")


def test_f04_two_drivers_of_one_class_leave_no_node(pi) -> None:
    pi.boot()
    pi.npu("rmmod", "hailo1x_pci")
    pi.install("hailo_pci", "4.20.0", claims=("2864", "45c4", "43a2"))
    pi.boot(cold=False)
    assert modules(pi) == ["hailo1x_pci", "hailo_pci"] or modules(pi) == ["hailo_pci", "hailo1x_pci"]
    assert "sysfs: cannot create duplicate filename '/class/hailo_chardev'" in pi.log()


def test_f10_firmware_outlives_an_upgrade_until_power_or_reset(pi) -> None:
    ready(pi)
    pi.install("hailo1x_pci", "5.2.0")
    pi.boot(cold=False)
    (pi.folder / "devices/hailo0").chmod(0o666)
    assert "HAILO_DRIVER_OPERATION_FAILED(36)" in identify(pi).stderr
    assert "pcie driver 5:2:0 pci_ep driver 5:1:1" in pi.log()
    pi.npu("modprobe", "-r", "hailo1x_pci")
    (pi.hardware / "sys/bus/pci/devices/0001:01:00.0/reset").write_text("1\n")
    pi.npu("modprobe", "hailo1x_pci")
    assert "Firmware Version: 5.2.0" in identify(pi).stdout


def test_a_reset_under_a_bound_driver_leaves_a_chip_without_firmware(pi) -> None:
    ready(pi)
    (pi.hardware / "sys/bus/pci/devices/0001:01:00.0/reset").write_text("1\n")
    assert "HAILO_COMMUNICATION_CLOSED(62)" in identify(pi).stderr


def test_f21_driver_5_3_renames_class_and_node(hat_guest) -> None:
    guest = hat_guest("hat-plus-2")
    guest.install("hailo1x_pci", "5.3.0")
    guest.boot()
    assert (guest.hardware / "sys/class/hailo1x/h1x-0/dev").exists()
    assert "Device created at /dev/h1x-0" in guest.log()
    assert not list((guest.hardware / "dev").glob("hailo*"))


@pytest.mark.parametrize(
    "fault, text",
    [("no-msi", "Failed to enable MSI -28"), ("firmware-timeout", "Failed writing SOC firmware on stage 2")],
)
def test_f09_f39_a_probe_that_fails_binds_nothing(pi, fault, text) -> None:
    pi.root.write(pi.root.read() | {"hat_fault": fault})
    pi.boot()
    assert text in pi.log()
    assert "probe with driver hailo1x failed with error" in pi.log()
    assert not list((pi.hardware / "dev").glob("hailo*"))
    assert modules(pi) == ["hailo1x_pci"]


def test_a_module_option_is_taken_and_an_unknown_one_passed_over(hat_guest) -> None:
    guest = hat_guest("hat-plus-2")
    guest.install("hailo1x_pci", "5.1.1", options="force_desc_page_size=2048 nonsense=1")
    guest.boot()
    assert (guest.hardware / "sys/module/hailo1x_pci/parameters/force_desc_page_size").read_text() == "2048\n"
    assert "unknown parameter 'nonsense' ignored" in guest.log()


def test_f42_udevs_rules_set_mode_when_triggered(pi) -> None:
    pi.boot()
    node = pi.folder / "devices/hailo0"
    assert node.stat().st_mode & 0o777 == 0o666
    (pi.folder / "rules/99-hailo.rules").write_text('SUBSYSTEM=="hailo_chardev", MODE="0660"\n')
    pi.npu("udevadm", "trigger", "--subsystem-match=hailo1x")
    assert node.stat().st_mode & 0o777 == 0o666
    pi.npu("udevadm", "trigger", "--subsystem-match=hailo_chardev")
    assert node.stat().st_mode & 0o777 == 0o660


def test_f42_without_a_rule_the_node_is_roots(hat_guest) -> None:
    guest = hat_guest("hat-plus-2")
    guest.install("hailo1x_pci", "5.3.0")
    guest.boot()
    assert (guest.folder / "devices/h1x-0").stat().st_mode & 0o777 == 0o600


def test_a_hat_that_falls_off_comes_back_bound(pi) -> None:
    pi.boot()
    pi.set(hat_present="false")
    assert not (pi.hardware / "sys/bus/pci/devices").exists()
    pi.set(hat_present="true")
    assert (pi.hardware / "dev/hailo0").exists()


def test_a_driver_kept_off_by_a_live_value_leaves_nothing_to_see(pi) -> None:
    pi.boot()
    pi.set(driver_bound="false")
    assert modules(pi) == []
    assert not (pi.hardware / "dev/hailo0").exists()
    pi.set(driver_bound="auto")
    assert (pi.hardware / "dev/hailo0").exists()


def test_what_is_loaded_is_forgotten_at_boot(pi) -> None:
    pi.boot()
    pi.uninstall()
    pi.boot(cold=False)
    assert modules(pi) == []
    assert json.loads((pi.folder / "run/npu.json").read_text())["modules"] == {}


def test_unloading_what_is_not_loaded_is_an_error(pi) -> None:
    pi.boot()
    done = pi.npu("rmmod", "hailo_pci")
    assert (done.returncode, done.stderr) == (1, "rmmod: ERROR: Module hailo_pci is not currently loaded\n")


def test_f41_an_install_line_that_fails_keeps_the_module_out_and_ends_no_boot(pi) -> None:
    for answer in (pi.folder / "kmod").glob("*hailo1x_pci"):
        answer.write_text("install /bin/false\n")
    for answer in (pi.folder / "kmod").glob("pci:*"):
        answer.write_text("install /bin/false\n")
    pi.boot()
    assert modules(pi) == []
    done = pi.npu("modprobe", "hailo1x_pci")
    assert done.returncode == 1
    assert "Error running install command '/bin/false'" in done.stderr
