"""Render a Raspberry Pi 5 as files: device tree, /proc and sysfs below a hardware root.

Pure: host and live values in, paths and bytes out. Every path and format stands
in the fact sheet sections named beside it; what is made up is said so.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hedgerow.emulator import eeprom
from hedgerow.emulator.values import Values

PCI_ADDRESS = "0001:01:00.0"  # current kernels (facts §2.3)
HAILO_VENDOR = "0x1e60"
PCI_DEVICES = {"hat-plus-2": "0x45c4", "hat-plus-13": "0x2864", "hat-plus-26": "0x2864"}  # facts §3.1
# Made up: the EEPROM strings of the AI HAT+ boards are not known (facts §10). The vendor is that of their sibling.
HAT_PRODUCTS = {"hat-plus-2": "AI HAT+ 2", "hat-plus-13": "AI HAT+", "hat-plus-26": "AI HAT+"}
ARCHITECTURES = {"hat-plus-2": "HAILO10H", "hat-plus-13": "HAILO8L", "hat-plus-26": "HAILO8"}  # facts §3.7

# What runs: picked by the guest's power-on, unless a live value overrides it.
KERNEL = "proc/sys/kernel/osrelease"
KERNEL_RELEASE = "6.18.50+rpt-rpi-2712"  # of a board that never booted: what its card has (archive/kernel.py)
# Type 0x17 (Pi 5), Rev 1.1, new-style bit set; memory in bits 20-22 (facts §4.1).
REVISIONS = {1024: "a04171", 2048: "b04171", 4096: "c04171", 8192: "d04171", 16384: "e04171"}
# Head of the default channel in autumn 2026 (facts §2.6); Pi OS itself flashes up to 2025-05-08 alone.
BOOTLOADER = "2026-05-26"

# What firmware prepends on a Pi 5 (facts §2.2); the guest adds its own cmdline.txt at each boot.
FIRMWARE_CMDLINE = (
    "numa_policy=interleave numa=fake=8 system_heap.max_order=0 nvme.max_host_mem_size_mb=0 "
    "pci=pcie_bus_safe cgroup_disable=memory"
)

# name, channel and value of the current (A), of the voltage (V): order and channels of a real answer (facts §6.1).
RAILS: tuple[tuple[str, int | None, float, int, float], ...] = (
    ("3V7_WL_SW", 0, 0.00195, 8, 3.7072),
    ("3V3_SYS", 1, 0.12687, 9, 3.3258),
    ("1V8_SYS", 2, 0.18835, 10, 1.8042),
    ("DDR_VDD2", 3, 0.02147, 11, 1.1114),
    ("DDR_VDDQ", 4, 0.0, 12, 0.6033),
    ("1V1_SYS", 5, 0.17957, 13, 1.1128),
    ("0V8_SW", 6, 0.2596, 14, 0.8051),
    ("VDD_CORE", 7, 0.56259, 15, 0.768),
    ("3V3_DAC", 17, 0.0, 20, 3.3214),
    ("3V3_ADC", 18, 0.0, 21, 3.3297),
    ("0V8_AON", 16, 0.00293, 19, 0.8018),
    ("HDMI", 22, 0.02552, 23, 5.1175),
)


@dataclass(frozen=True, slots=True)
class Board:
    """What of a host never changes while it exists."""

    serial: str
    hat: str
    cooling: str
    memory_mb: int = 8192
    bootloader: str = BOOTLOADER  # what its flash holds when it leaves the factory: date of the build
    min_boot_ver: int | None = None  # boards before 2026 do not say it


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link instead of a file."""

    target: str


Entry = bytes | Link


def render(board: Board, values: Values) -> dict[str, Entry]:
    """Every file below the hardware root, by relative path."""
    files: dict[str, Entry] = {}
    files |= _device_tree(board, values)
    files |= _processor(board, values)
    files |= _sensors(values)
    files |= _hat(board, values)
    if values["clock_synced"]:
        # systemd-timesyncd.service(8): this flag file stands once the clock was synchronised.
        files["run/systemd/timesync/synchronized"] = b""
    if values["memory_available_mb"] is not None:
        available = int(str(values["memory_available_mb"])) * 1024
        files["proc/meminfo"] = _text(
            f"MemTotal:       {board.memory_mb * 1024:8d} kB\nMemFree:        {available:8d} kB\n"
            f"MemAvailable:   {available:8d} kB"
        )
    if values.get("kernel_release") is not None:
        files[KERNEL] = _text(str(values["kernel_release"]))
    # What only the guest's vcgencmd and hailortcli read: no file of a real board holds these.
    for key, value in values.items():
        files[f"live/{key}"] = _text("none" if value is None else str(value))
    files["live/rails"] = _text(pmic_answer(values))
    return files


def pmic_answer(values: Values) -> str:
    """``vcgencmd pmic_read_adc``: names right-aligned, currents first (facts §6.1, §9)."""
    lines = [f"{name + '_A':>12} current({channel})={amps:.8f}A" for name, channel, amps, _, _ in RAILS]
    lines += [f"{name + '_V':>12} volt({channel})={volts:.8f}V" for name, _, _, channel, volts in RAILS]
    lines.append(f"{'EXT5V_V':>12} volt(24)={float(str(values['ext5v_volts'])):.8f}V")
    lines.append(f"{'BATT_V':>12} volt(25)=0.00341880V")
    return "\n".join(lines)


def _device_tree(board: Board, values: Values) -> dict[str, Entry]:
    base = "proc/device-tree"
    files: dict[str, Entry] = {
        f"{base}/model": b"Raspberry Pi 5 Model B Rev 1.1\0",
        f"{base}/compatible": b"raspberrypi,5-model-b\0brcm,bcm2712\0",
        f"{base}/serial-number": board.serial.encode() + b"\0",
        f"{base}/system/linux,revision": struct.pack(">I", int(REVISIONS[board.memory_mb], 16)),
        f"{base}/chosen/bootloader/build-timestamp": struct.pack(">I", eeprom.build_timestamp(board.bootloader)),
        f"{base}/chosen/power/max_current": struct.pack(">I", int(str(values["psu_max_current_ma"]))),
    }
    if board.min_boot_ver is not None:
        files[f"{base}/chosen/rpi-min-boot-ver"] = struct.pack(">I", board.min_boot_ver)
    if values.get("hat_eeprom"):
        files |= {
            f"{base}/hat/vendor": b"Raspberry Pi\0",
            f"{base}/hat/product": HAT_PRODUCTS[board.hat].encode() + b"\0",
        }
    return files


def _processor(board: Board, values: Values) -> dict[str, Entry]:
    cores = "".join(
        f"processor\t: {n}\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n"
        for n in range(4)
    )
    policy = "sys/devices/system/cpu/cpufreq/policy0"
    return {
        "proc/cpuinfo": _text(
            f"{cores}Revision\t: {REVISIONS[board.memory_mb]}\nSerial\t\t: {board.serial}\n"
            "Model\t\t: Raspberry Pi 5 Model B Rev 1.1"
        ),
        "firmware/cmdline": _text(FIRMWARE_CMDLINE),
        f"{policy}/scaling_cur_freq": _text(str(int(str(values["cpu_freq_mhz"])) * 1000)),
        f"{policy}/cpuinfo_max_freq": _text("2400000"),
    }


def _sensors(values: Values) -> dict[str, Entry]:
    milli_c = _text(str(round(float(str(values["temperature_c"])) * 1000)))
    undervoltage = int(str(values["throttled"]), 16) & 1
    hwmon: list[dict[str, bytes]] = [
        {"name": _text("cpu_thermal"), "temp1_input": milli_c},
        {"name": _text("rp1_adc"), "temp1_input": milli_c},
        {"name": _text("rpi_volt"), "in0_lcrit_alarm": _text(str(undervoltage))},
    ]
    if values["fan_rpm"] is not None:
        # Before the others: numbers are not stable on a board, so none may rely on them here.
        hwmon.insert(1, {"name": _text("pwmfan"), "fan1_input": _text(str(values["fan_rpm"]))})
    files: dict[str, Entry] = {
        "sys/class/thermal/thermal_zone0/type": _text("cpu-thermal"),
        "sys/class/thermal/thermal_zone0/temp": milli_c,
    }
    for number, sensor in enumerate(hwmon):
        files |= {f"sys/class/hwmon/hwmon{number}/{name}": data for name, data in sensor.items()}
    return files


def _hat(board: Board, values: Values) -> dict[str, Entry]:
    if not values.get("hat_present"):
        return {}
    pci = f"sys/bus/pci/devices/{PCI_ADDRESS}"
    # What is on the bus, with or without a driver; that part is the guest's (guest/image/usr/lib/emulated-pi/npu).
    return {
        f"{pci}/vendor": _text(HAILO_VENDOR),
        f"{pci}/device": _text(PCI_DEVICES[board.hat]),
        f"{pci}/current_link_speed": _text(f"{values['link_speed_gts']} GT/s PCIe"),
        f"{pci}/current_link_width": _text(str(values["link_width"])),
        "live/architecture": _text(ARCHITECTURES[board.hat]),
        "live/pci_address": _text(PCI_ADDRESS),
    }


def _text(text: str) -> bytes:
    return text.encode() + b"\n"
