"""Parsers by fixture files of real output; reading below a rendered board, with the emulator's own programs."""

from __future__ import annotations

import ast
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from hedgerow.device import hardware
from hedgerow.emulator.eeprom import FACTORY_CONFIG

FIXTURES = Path(__file__).parents[2] / "fixtures" / "hardware"
CASES = sorted(FIXTURES.glob("*/*.txt"))


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_parser(case: Path) -> None:
    parser = getattr(hardware, case.parent.name)
    assert parser(case.read_text()) == json.loads(case.with_suffix(".json").read_text())


def test_every_text_parser_has_a_fixture() -> None:
    parsers = {name for name in vars(hardware) if name.startswith("parse_")} - {"parse_revision"}
    assert parsers == {case.parent.name for case in CASES}


@pytest.mark.parametrize(
    "code, memory_mb, board_type",
    [("b04170", 2048, 0x17), ("c04171", 4096, 0x17), ("d04171", 8192, 0x17), ("e04171", 16384, 0x17),
     ("a04171", 1024, 0x17), ("000e", None, None), ("no number", None, None)],
)  # fmt: skip
def test_revision_is_decoded_by_bits(code, memory_mb, board_type) -> None:
    assert hardware.parse_revision(code) == {"memory_mb": memory_mb, "type": board_type}


@pytest.mark.parametrize(
    "versions, verdict",
    [(("5.1.1", "5.1.1", "5.1.1"), True), (("5.1.1", "5.3.0", None), False), (("5.1.1", None, "5.1.1"), None),
     ((None, None, None), None)],
)  # fmt: skip
def test_same_version(versions, verdict) -> None:
    assert hardware.same_version(*versions) is verdict


def test_it_imports_the_standard_library_alone() -> None:
    """It is sent to hosts that have no Hedgerow (hedgerow.remote_script)."""
    tree = ast.parse(Path(hardware.__file__).read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)


class Pi:
    """A board below a folder with the guest's programs on PATH, its HAT's stack installed and booted."""

    def __init__(self, guest: Any, monkeypatch: pytest.MonkeyPatch, hat: str) -> None:
        self.guest, self.root = guest, guest.root
        self.node = guest.folder / "vcio_gencmd"
        if hat != "none":
            guest.install(*(("hailo1x_pci", "5.1.1") if hat == "hat-plus-2" else ("hailo_pci", "4.23.0")))
            guest.boot()
            (guest.folder / "devices/hailo0").touch()
        self._boot()
        monkeypatch.setenv("PATH", guest.path)

    def _boot(self) -> None:
        """What the bootloader's stand-in leaves behind (tests/unit/emulator/test_firmware.py runs that itself)."""
        told = self.root.path / "proc/device-tree/chosen/bootloader"
        for name, number in {"tryboot": 0, "partition": 1, "pm_rsts": 0x1000}.items():
            (told / name).write_bytes(struct.pack(">I", number))
        (self.root.path / "proc/device-tree/aliases").mkdir()
        (self.root.path / "proc/device-tree/aliases/blconfig").write_bytes(b"/reserved-memory/nvram@0\0")
        device = self.root.path / "sys/bus/nvmem/devices/rmem0"
        device.mkdir(parents=True)
        (device / "of_node").symlink_to("../../../../firmware/devicetree/base/reserved-memory/nvram@0")
        (device / "nvmem").write_bytes(FACTORY_CONFIG.encode())
        (self.root.path / "proc/sys/kernel/random").mkdir(parents=True)
        (self.root.path / "proc/sys/kernel/random/boot_id").write_text("boot-1\n")

    def set(self, **settings: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", os.defpath)
            self.guest.set(**settings)

    def read(self, **options) -> dict:
        return hardware.read(str(self.root.path), **options)


@pytest.fixture
def pi(hat_guest, monkeypatch: pytest.MonkeyPatch) -> Pi:
    return Pi(hat_guest("hat-plus-2"), monkeypatch, "hat-plus-2")


def test_a_healthy_board(pi: Pi) -> None:
    seen = pi.read()
    assert seen["board"] == {
        "model": "Raspberry Pi 5 Model B Rev 1.1", "is_pi5": True, "serial": "00000000deadbeef", "revision": "d04171",
        "memory_mb": 8192,
    }  # fmt: skip
    assert seen["hat"] == {
        "kind": "hat-plus-2", "vendor": "Raspberry Pi", "product": "AI HAT+ 2", "pci_address": "0001:01:00.0",
        "driver": "hailo1x_pci", "driver_bound": True, "driver_version_loaded": "5.1.1", "node": "/dev/hailo0",
        "link_speed_gts": 8.0, "link_width": 1, "library_version": "5.1.1", "firmware_version": "5.1.1",
        "architecture": "HAILO10H", "mismatch": False, "error": None,
    }  # fmt: skip
    assert seen["thermal"]["soc_c"] == 48.3
    assert seen["thermal"]["pmic_c"] == 49.9
    assert seen["throttled"]["raw"] == "0x0"
    assert seen["undervoltage_now"] is False
    assert seen["rails"]["EXT5V"] == {"volts": 5.11478, "amps": None}
    assert seen["fan_rpm"] == 2870
    assert seen["cpu_freq_hz"] == 1_500_000_000
    assert seen["power_supply"] == {"max_current_ma": 5000}
    assert seen["kernel"]["release"] == "6.18.50+rpt-rpi-2712"
    assert seen["eeprom"] == {
        "bootloader_version": "2026-05-26", "bootloader_timestamp": 1779807685, "min_boot_ver": None,
        "config": FACTORY_CONFIG,
    }  # fmt: skip
    assert seen["boot"]["tryboot"] is False
    assert seen["boot"]["partition"] == 1
    assert seen["boot"]["boot_id"] == "boot-1"
    assert seen["clock"] == {"synced": True}
    json.dumps(seen)


def test_keys_are_the_same_without_a_board(tmp_path: Path, pi: Pi, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pi.read()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    empty = hardware.read(str(tmp_path / "empty"))
    assert empty.keys() == whole.keys()
    assert empty["hat"].keys() == whole["hat"].keys()
    assert empty["board"] == dict.fromkeys(whole["board"])
    assert empty["hat"]["kind"] == "none"
    assert empty["throttled"] is None
    assert empty["undervoltage_now"] is None
    assert empty["eeprom"] == dict.fromkeys(whole["eeprom"])
    assert empty["boot"].keys() == whole["boot"].keys()
    assert empty["boot"]["watchdog"] == {"identity": None, "state": None, "timeout_s": None}


def test_f27_a_bootloader_that_does_not_tell_its_configuration_is_not_an_empty_one(pi: Pi) -> None:
    (pi.root.path / "proc/device-tree/aliases/blconfig").unlink()
    (pi.root.path / "firmware/bootloader_config").write_text("")
    assert pi.read()["eeprom"]["config"] is None


def test_the_bootloader_s_configuration_without_nvmem_comes_from_vcgencmd(pi: Pi) -> None:
    (pi.root.path / "proc/device-tree/aliases/blconfig").unlink()
    (pi.root.path / "firmware/bootloader_config").write_text("BOOT_ORDER=0xf416\n")
    assert pi.read()["eeprom"]["config"] == "BOOT_ORDER=0xf416\n"


def test_f33_the_watchdog_s_state_is_read_where_the_kernel_tells_it(pi: Pi) -> None:
    folder = pi.root.path / "sys/class/watchdog/watchdog0"
    folder.mkdir(parents=True)
    for name, text in {"identity": "Broadcom BCM2835 Watchdog timer", "state": "active", "timeout": "60"}.items():
        (folder / name).write_text(text + "\n")
    assert pi.read()["boot"]["watchdog"] == {
        "identity": "Broadcom BCM2835 Watchdog timer", "state": "active", "timeout_s": 60,
    }  # fmt: skip


def test_driver_and_library_differ(pi: Pi) -> None:
    pi.set(library_version="5.3.0")
    hat = pi.read()["hat"]
    assert hat["mismatch"] is True
    assert hat["error"] == "driver 5.1.1 and library 5.3.0 differ"


def test_f10_old_firmware_on_a_hailo_10h_is_the_drivers_complaint(pi: Pi) -> None:
    pi.set(firmware_version="5.0.0")
    assert pi.read()["hat"]["error"] == "HAILO_DRIVER_OPERATION_FAILED(36)"
    assert "Mismatch Driver version pcie driver 5:1:1 pci_ep driver 5:0:0" in pi.guest.log()


def test_f02_old_firmware_on_a_hailo_8_is_the_librarys(hat_guest, monkeypatch: pytest.MonkeyPatch) -> None:
    pi = Pi(hat_guest("hat-plus-26"), monkeypatch, "hat-plus-26")
    pi.set(firmware_version="4.20.0")
    hat = pi.read()["hat"]
    assert (hat["mismatch"], hat["error"]) == (True, "host 4.23.0 and firmware 4.20.0 differ")


def test_no_driver(pi: Pi) -> None:
    pi.set(driver_bound="false")
    hat = pi.read()["hat"]
    assert (hat["kind"], hat["driver_bound"], hat["node"]) == ("hat-plus-2", False, None)
    assert hat["error"] == "no driver has the device"


def test_hat_fell_off_the_bus(pi: Pi) -> None:
    pi.set(hat_present="false")
    hat = pi.read()["hat"]
    assert (hat["kind"], hat["node"], hat["pci_address"]) == ("none", None, None)
    assert hat["product"] == "AI HAT+ 2"


def test_renamed_node(pi: Pi) -> None:
    pi.set(node="h1x-0")
    assert pi.read()["hat"]["node"] == "/dev/h1x-0"


def test_slow_link(pi: Pi) -> None:
    pi.set(link_speed_gts="5.0")
    assert pi.read()["hat"]["link_speed_gts"] == 5.0


def test_f45_no_right_to_ask_the_firmware_is_no_value(pi: Pi) -> None:
    """vcgencmd then prints its complaint on standard output and exits 0."""
    pi.node.unlink()
    seen = pi.read()
    assert seen["throttled"] is None
    assert seen["rails"] == {}
    assert seen["undervoltage_now"] is False  # sysfs still tells


def test_the_npu_is_left_alone(pi: Pi) -> None:
    hat = pi.read(with_hailortcli=False)["hat"]
    assert hat["firmware_version"] is None
    assert (hat["library_version"], hat["mismatch"], hat["error"]) == ("5.1.1", False, None)


def test_ai_hat_of_the_older_kind(hat_guest, monkeypatch: pytest.MonkeyPatch) -> None:
    hat = Pi(hat_guest("hat-plus-26"), monkeypatch, "hat-plus-26").read()["hat"]
    assert (hat["kind"], hat["driver"], hat["architecture"]) == ("hat-ai", "hailo_pci", "HAILO8")


def test_no_hat(hat_guest, monkeypatch: pytest.MonkeyPatch) -> None:
    hat = Pi(hat_guest("none"), monkeypatch, "none").read()["hat"]
    assert (hat["kind"], hat["library_version"], hat["mismatch"], hat["error"]) == ("none", None, False, None)


def test_sensors_start_no_program(pi: Pi, monkeypatch: pytest.MonkeyPatch) -> None:
    pi.set(temperature_c="84.2", undervoltage="true", memory_available_mb="512")

    def refuse(*args, **kwargs):
        raise AssertionError(args)

    monkeypatch.setattr(hardware.subprocess, "run", refuse)
    sensors = hardware.read_sensors(str(pi.root.path))
    assert sensors["thermal"] == {"soc_c": 84.2}
    assert sensors["undervoltage_now"] is True
    assert sensors["memory"] == {"total_mb": 8192, "available_mb": 512}
    assert sensors["link"] == {"speed_gts": 8.0, "width": 1}


def test_what_a_server_under_pressure_goes_by(pi: Pi) -> None:
    pi.set(temperature_c="84.2")
    now = hardware.read_pressure(str(pi.root.path))
    assert now["thermal"] == {"soc_c": 84.2}
    assert now["throttled"]["now"]["undervoltage"] is False
    assert now["memory_stalled_percent"] is None  # that of the machine below is not this board's
    folder = pi.root.path / "proc" / "pressure"
    folder.mkdir()
    (folder / "memory").write_text((FIXTURES / "parse_pressure" / "stalled.txt").read_text())
    assert hardware.read_pressure(str(pi.root.path))["memory_stalled_percent"] == 22.5


def test_hwmon_is_found_by_name(pi: Pi) -> None:
    """Without a fan every later hwmon number moves down by one."""
    pi.set(fan_rpm="none", undervoltage="true")
    sensors = hardware.read_sensors(str(pi.root.path))
    assert (sensors["fan_rpm"], sensors["undervoltage_now"]) == (None, True)


def test_free_space_of_a_folder_that_is_not_made_yet(pi: Pi, tmp_path: Path) -> None:
    later = str(tmp_path / "not/yet")
    assert pi.read(disk_paths=[later])["disk"]["free_mb"][later] > 0


def test_root_by_variable(pi: Pi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hardware.ROOT_VARIABLE, str(pi.root.path))
    assert hardware.hardware_root() == pi.root.path


def test_root_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "hardware-root"
    monkeypatch.delenv(hardware.ROOT_VARIABLE, raising=False)
    monkeypatch.setattr(hardware, "ROOT_FILE", file)
    assert hardware.hardware_root() == Path("/")
    file.write_text("/hardware\nanything else\n")
    assert hardware.hardware_root() == Path("/hardware")


def test_a_program_that_hangs_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "vcgencmd"
    program.write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(hardware._command, "__kwdefaults__", {"timeout": 0.05, "both": False})
    assert hardware.read_firmware() == {"throttled": None, "rails": {}, "pmic_c": None}


def test_a_board_s_clock_is_synchronised_once_its_time_daemon_has_said_so(tmp_path: Path) -> None:
    assert hardware.read_clock(str(tmp_path)) is False
    flag = tmp_path / "run/systemd/timesync/synchronized"
    flag.parent.mkdir(parents=True)
    flag.touch()
    assert hardware.read_clock(str(tmp_path)) is True
