"""Every link broken once, with the messages of the field, and what is said to do next."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from hedgerow.device import hardware, hat_chain

KERNEL = "6.18.50+rpt-rpi-2712"
HARDWARE: dict[str, Any] = {
    "hat": {
        "kind": "hat-plus-2", "vendor": "Raspberry Pi", "product": "AI HAT+ 2", "driver": "hailo1x_pci",
        "driver_version_loaded": "5.1.1", "library_version": "5.1.1", "firmware_version": "5.1.1",
        "architecture": "HAILO10H", "node": "/dev/hailo0", "link_speed_gts": 8.0, "link_width": 1, "mismatch": False,
        "error": None,
    },
    "throttled": hardware.parse_throttled("throttled=0x0"),
    "power_supply": {"max_current_ma": 5000},
}  # fmt: skip
NPU: dict[str, Any] = {
    "address": "0001:01:00.0",
    "device": "0x45c4",
    "kernel": KERNEL,
    "kernels": {KERNEL: {"headers": True, "modules": {"hailo1x_pci": "updates/dkms/hailo1x_pci.ko.xz"}}},
    "on_disk": {"hailo1x_pci": "5.1.1"},
    "dkms": {"hailo1x_pci/5.1.1": {KERNEL: "installed"}},
    "loaded": {"hailo1x_pci": {"version": "5.1.1", "parameters": {}}},
    "modprobe": {"blacklisted": ["hailo_pci"], "install_lines": [], "options": {}},
    "firmware_missing": None,
    "nodes": [{"path": "/dev/hailo0", "mode": "0660", "group": "hailo"}],
    "owners": [],
    "log": ["hailo1x: Init module. driver version 5.1.1", "hailo1x 0001:01:00.0: Firmware loaded in 6504 ms"],
    "cma": {"total_kb": 65536, "free_kb": 60000},
}
UNBOUND = {"driver": None, "driver_version_loaded": None, "node": None}
FAILED = {"firmware_version": None, "architecture": None}
PREFIX = "hailo1x 0001:01:00.0: "


def prove(hat: dict[str, Any] | None = None, npu: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    board = copy.deepcopy(HARDWARE) | more
    board["hat"] |= hat or {}
    return hat_chain.prove(board, copy.deepcopy(NPU) | (npu or {}), group="hailo")


def broken(hat: dict[str, Any] | None = None, npu: dict[str, Any] | None = None) -> tuple[str, str, str]:
    """(link, failure, sentence) of the first broken link."""
    found = prove(hat, npu)
    assert found["ok"] is False
    return found["broken"], found["failure"], found["text"]


def warnings(found: dict[str, Any]) -> list[tuple[str, str]]:
    assert found["ok"] is True, found["text"]
    return [(entry["link"], entry["failure"]) for entry in found["warnings"]]


def log(*messages: str) -> dict[str, Any]:
    return {"log": ["hailo1x: Init module. driver version 5.1.1", *(PREFIX + message for message in messages)]}


def test_a_healthy_chain_has_every_link() -> None:
    found = prove()
    assert (found["ok"], found["broken"], found["warnings"]) == (True, None, [])
    assert [entry["link"] for entry in found["links"]] == list(hat_chain.LINKS)
    assert {entry["state"] for entry in found["links"]} == {"ok"}


def test_a_board_without_an_npu_proves_nothing() -> None:
    assert prove(npu={"device": None})["ok"] is None
    assert "unknown device 1e60:26a2" in prove(npu={"device": "0x26a2"})["text"]


def test_what_comes_after_a_broken_link_is_not_blamed() -> None:
    found = prove(UNBOUND, {"loaded": {}})
    states = {entry["link"]: entry["state"] for entry in found["links"]}
    assert states["driver_loaded"] == "broken"
    assert {states[name] for name in ("bound", "node", "versions", "firmware", "answers")} == {"not reached"}
    assert states["power"] == "ok"


def test_f01_driver_and_library_of_two_versions() -> None:
    link, failure, text = broken(
        {"library_version": "5.3.0", "error": "driver 5.1.1 and library 5.3.0 differ", **FAILED}
    )
    assert (link, failure) == ("versions", "F1")
    assert "status 76" in text


def test_f02_firmware_of_another_set_on_a_hailo_8() -> None:
    link, failure, text = broken({**FAILED, "error": "host 4.20.0 and firmware 4.21.0 differ"})
    assert (link, failure) == ("firmware", "F2")
    assert "reinstall" in text


def test_f02_a_firmware_file_that_is_missing() -> None:
    missing = {**log("Direct firmware load for hailo/hailo10h/image-fs failed with error -2"), "nodes": []}
    assert broken(UNBOUND, missing)[:2] == ("bound", "F2")
    assert broken(UNBOUND, {"log": [], "firmware_missing": "/lib/firmware/hailo/hailo10h/image-fs"})[:2] == (
        "bound",
        "F2",
    )


def test_f03_another_version_is_loaded_than_is_installed() -> None:
    link, failure, text = broken(npu={"loaded": {"hailo1x_pci": {"version": "4.20.0", "parameters": {}}}})
    assert (link, failure) == ("driver_loaded", "F3")
    assert "initramfs" in text


def test_f03_a_copy_of_the_other_driver_that_is_not_loaded_is_told() -> None:
    modules = NPU["kernels"][KERNEL]["modules"] | {"hailo_pci": "kernel/drivers/media/pci/hailo/hailo_pci.ko.xz"}
    assert warnings(prove(npu={"kernels": {KERNEL: {"headers": True, "modules": modules}}})) == [("driver_alone", "F3")]


def test_f04_both_drivers_are_loaded() -> None:
    both = {name: {"version": "5.1.1", "parameters": {}} for name in ("hailo_pci", "hailo1x_pci")}
    assert broken(UNBOUND, {"loaded": both})[:2] == ("driver_alone", "F4")


def test_f04_one_class_for_two_by_the_kernel_s_word() -> None:
    said = [
        "hailo1x: Init module. driver version 5.1.1",
        "sysfs: cannot create duplicate filename '/class/hailo_chardev'",
    ]
    assert broken(UNBOUND, {"log": said})[:2] == ("bound", "F4")


def test_f05_the_other_chip_s_stack_binds_nothing() -> None:
    npu = {
        "kernels": {KERNEL: {"headers": True, "modules": {"hailo_pci": "updates/dkms/hailo_pci.ko.xz"}}},
        "dkms": {"hailo_pci/4.23.0": {KERNEL: "installed"}},
        "loaded": {},
        "on_disk": {},
    }
    link, failure, text = broken(UNBOUND, npu)
    assert (link, failure) == ("driver_built", "F5")
    assert "hailo-all" in text
    assert "hat_purge_wrong_stack" in text


def test_f05_the_right_driver_is_blacklisted() -> None:
    npu = {"loaded": {}, "modprobe": {"blacklisted": ["hailo1x_pci"], "install_lines": [], "options": {}}}
    assert broken(UNBOUND, npu)[:2] == ("driver_loaded", "F5")


@pytest.mark.parametrize(
    "kernels, dkms, failure, text",
    [
        ({KERNEL: {"headers": False, "modules": {}}}, {"hailo1x_pci/5.1.1": {}}, "F6", f"linux-headers-{KERNEL}"),
        ({}, {}, "F6", f"linux-headers-{KERNEL}"),
        ({KERNEL: {"headers": True, "modules": {}}}, {}, "F6", "--reinstall h10-hailort-pcie-driver"),
        ({KERNEL: {"headers": True, "modules": {}}}, {"hailo1x_pci/5.3.0": {}}, "F7", "del_timer_sync"),
    ],
)
def test_f06_f07_no_module_for_the_kernel_that_runs(kernels, dkms, failure, text) -> None:
    found = broken(UNBOUND, {"kernels": kernels, "dkms": dkms, "loaded": {}, "on_disk": {}})
    assert found[:2] == ("driver_built", failure)
    assert text in found[2]


def test_f06_built_and_not_loaded() -> None:
    link, failure, text = broken(UNBOUND, {"loaded": {}})
    assert (link, failure) == ("driver_loaded", "F6")
    assert "sudo modprobe hailo1x_pci" in text


def test_f08_a_closed_connection_asks_for_logs_and_a_cold_cycle() -> None:
    link, failure, text = broken({**FAILED, "error": "HAILO_COMMUNICATION_CLOSED(62)"})
    assert (link, failure) == ("answers", "F8")
    assert "hailortcli logs runtime" in text
    assert "switch the power off" in text


def test_f08_a_chip_that_no_longer_answers_on_the_bus() -> None:
    assert broken(UNBOUND, log("Probing: Failed reading device BARs, device may be disconnected"))[:2] == (
        "bound",
        "F8",
    )


def test_f09_firmware_that_times_out_asks_for_a_cold_cycle() -> None:
    link, failure, text = broken(
        UNBOUND, log("Timeout waiting for firmware file", "Failed writing SOC firmware on stage 2")
    )
    assert (link, failure) == ("bound", "F9")
    assert "27 W" in text


def test_what_an_earlier_load_said_is_forgotten_once_it_is_loaded_again() -> None:
    said = log("Timeout waiting for firmware file")["log"] + log("Failed to enable MSI -28")["log"]
    assert broken(UNBOUND, {"log": said})[:2] == ("bound", "F39")


def test_f10_firmware_of_before_the_upgrade_asks_for_power_or_reset() -> None:
    said = log("Mismatch Driver version pcie driver 5:2:0 pci_ep driver 5:1:1", "Firmware loaded in 0 ms")
    newer = {"driver_version_loaded": "5.2.0", "library_version": "5.2.0"}
    npu = {
        **said,
        "loaded": {"hailo1x_pci": {"version": "5.2.0", "parameters": {}}},
        "on_disk": {"hailo1x_pci": "5.2.0"},
    }
    link, failure, text = broken({**newer, **FAILED, "error": "HAILO_DRIVER_OPERATION_FAILED(36)"}, npu)
    assert (link, failure) == ("firmware", "F10")
    assert "firmware 5.1.1 still runs on the chip, the driver is 5.2.0" in text
    assert "hat_pci_reset=true" in text
    assert "switch the power off" in text


def test_f10_firmware_of_before_that_identify_still_tells() -> None:
    assert broken({"firmware_version": "5.0.0", "mismatch": True})[:2] == ("firmware", "F10")


def test_f11_descriptors_larger_than_the_chip_s_are_told() -> None:
    loaded = {"hailo1x_pci": {"version": "5.1.1", "parameters": {"force_desc_page_size": "16384"}}}
    assert warnings(prove(npu={"loaded": loaded})) == [("pages", "F11")]
    assert broken({**FAILED, "error": "HAILO_INTERNAL_FAILURE(8)"})[:2] == ("answers", "F11")


def test_f13_a_slow_link_with_its_eeprom_read() -> None:
    assert warnings(prove({"link_speed_gts": 5.0})) == [("link", "F13")]


def test_f30_without_its_eeprom_the_link_is_slow() -> None:
    assert warnings(prove({"vendor": None, "product": None, "link_speed_gts": 5.0})) == [
        ("eeprom", "F30"),
        ("link", "F30"),
    ]


@pytest.mark.parametrize("raw", ["throttled=0x10000", "throttled=0x10001"])
def test_f14_under_voltage_is_named_beside_what_broke(raw: str) -> None:
    found = prove(UNBOUND, log("Timeout waiting for firmware file"), throttled=hardware.parse_throttled(raw))
    assert found["broken"] == "bound"
    assert [(entry["link"], entry["failure"]) for entry in found["warnings"]] == [("power", "F14")]


def test_f14_a_supply_of_three_amps() -> None:
    assert warnings(prove(power_supply={"max_current_ma": 3000})) == [("power", "F14")]


@pytest.mark.parametrize("error", ["HAILO_DEVICE_IN_USE(73)", "HAILO_OUT_OF_PHYSICAL_DEVICES(74)"])
def test_f19_a_chip_that_serves_is_not_broken(error: str) -> None:
    owners = [{"pid": 7, "program": "python3", "unit": "hedgerow-server.service"}]
    found = prove({**FAILED, "error": error}, {"owners": owners})
    assert warnings(found) == []
    assert any("in use by hedgerow-server.service" in line for line in hat_chain.lines(found))


def test_f19_a_chip_that_nobody_seems_to_have() -> None:
    found = prove({**FAILED, "error": "HAILO_OUT_OF_PHYSICAL_DEVICES(74)"})
    assert warnings(found) == [("answers", "F19")]
    assert "fuser -v /dev/hailo0" in found["warnings"][0]["next"]


def test_f20_memory_of_the_host_that_is_too_small_or_none() -> None:
    assert broken({**FAILED, "error": "HAILO_OUT_OF_HOST_CMA_MEMORY(81)"})[:2] == ("answers", "F20")
    assert warnings(prove(npu={"cma": {"total_kb": 0, "free_kb": 0}})) == [("memory", "F20")]


def test_f21_either_name_of_the_node_will_do() -> None:
    node = {"path": "/dev/h1x-0", "mode": "0660", "group": "hailo"}
    assert prove({"node": "/dev/h1x-0"}, {"nodes": [node]})["ok"] is True
    assert broken({"node": None}, {"nodes": []})[:2] == ("node", "F21")


def test_f39_no_interrupt_behind_a_switch() -> None:
    link, failure, text = broken(UNBOUND, log("Failed to enable MSI -28"))
    assert (link, failure) == ("bound", "F39")
    assert "switch" in text


def test_f41_an_install_line_keeps_the_driver_out() -> None:
    line = {"path": "/etc/modprobe.d/old.conf", "module": "hailo1x_pci", "line": "install hailo1x_pci /bin/false"}
    npu = {"loaded": {}, "modprobe": {"blacklisted": [], "install_lines": [line], "options": {}}}
    link, failure, text = broken(UNBOUND, npu)
    assert (link, failure) == ("driver_loaded", "F41")
    assert "/etc/modprobe.d/old.conf" in text


@pytest.mark.parametrize("node", [{"mode": "0600", "group": "root"}, {"mode": "0666", "group": "root"}])
def test_f42_a_node_with_another_mode_or_group(node: dict[str, str]) -> None:
    link, failure, text = broken(npu={"nodes": [{"path": "/dev/hailo0", **node}]})
    assert (link, failure) == ("node", "F42")
    assert "udevadm trigger" in text


def test_f47_the_older_interface_does_not_exist_on_this_chip() -> None:
    assert any("no VStreams (F47)" in line for line in hat_chain.lines(prove()))
    assert broken({**FAILED, "error": "HAILO_NOT_IMPLEMENTED(7)"})[:2] == ("answers", "F47")


def test_silence_with_exit_code_0_is_no_answer() -> None:
    assert broken({**FAILED, "error": "no answer"})[0] == "answers"


def test_another_chip_than_its_id_says() -> None:
    assert broken({"architecture": "HAILO8"})[:2] == ("answers", "F5")


def test_without_the_stack_s_facts_the_rest_is_proven() -> None:
    found = hat_chain.prove(HARDWARE)
    assert found["ok"] is True
    assert {entry["link"] for entry in found["links"] if entry["state"] == "not asked"} == {
        "driver_built", "driver_loaded", "driver_alone", "pages", "memory",
    }  # fmt: skip
    assert hat_chain.prove(HARDWARE | {"hat": HARDWARE["hat"] | UNBOUND})["broken"] == "bound"
    assert hat_chain.prove(HARDWARE | {"hat": HARDWARE["hat"] | {"kind": "none"}})["ok"] is None
