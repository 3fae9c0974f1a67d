"""What a Raspberry Pi 5 and its AI HAT are and measure: the one place where hardware is read on a device.

Invariants:

- Standard library only: ``hedgerow.remote_script`` sends this file to hosts that have no Hedgerow yet.
- None means unknown. Nothing is guessed; text that does not have the known form is unknown, whatever the exit code.
- Parsers are pure (text in, values out). ``read`` and ``read_sensors`` do the IO, below a root folder: the argument,
  else ``HEDGEROW_HARDWARE_ROOT``, else the first line of ``/etc/hedgerow/hardware-root``, else ``/``.
- The root redirects the board: device tree, /proc/cpuinfo, /proc/cmdline, the kernel's release, sysfs, HAT nodes.
  What belongs to the running system is never redirected: page size, security modules, disks, programs. Memory and
  clock are the running system's unless the root has ``proc/meminfo`` or is not ``/`` (see ``_memory``, ``_clock``).
- Every program is run with a deadline.

Formats and paths: Raspberry Pi and Hailo documentation and source; the notes at each parser say what is odd.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import struct
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT_VARIABLE = "HEDGEROW_HARDWARE_ROOT"
ROOT_FILE = Path("/etc/hedgerow/hardware-root")

COMMAND_TIMEOUT_S = 5.0
# identify opens the device and talks to the chip; a chip that is busy answers late.
HAILORTCLI_TIMEOUT_S = 20.0

PCI_VENDOR_HAILO = "0x1e60"
# PCI device id → kind. 8 and 8L share one id, so AI HAT+ 13 and 26 TOPS cannot be told apart by it.
PCI_KINDS = {"0x45c4": "hat-plus-2", "0x2864": "hat-ai"}
# Node names: driver up to 5.2 and 4.x, then driver 5.3 and later.
NODE_PATTERNS = ("dev/hailo[0-9]*", "dev/h1x-[0-9]*")

# bcm2712 is the processor of every board of the Pi 5 family; these types are the boards (revision code bits 4-11).
PI5_COMPATIBLE = "brcm,bcm2712"
THROTTLE_BITS = {"undervoltage": 0, "capped": 1, "throttled": 2, "soft_limit": 3}
_SINCE_BOOT_SHIFT = 16
_NEW_STYLE_REVISION = 1 << 23

_CHIP_TEMPERATURE = """
from hailo_platform import Device
device = Device()
try:
    print(device.control.get_chip_temperature().ts0_temperature)
finally:
    device.release()
"""


# ── parsers: no IO ──────────────────────────────────────────────────────────


def parse_throttled(text: str) -> dict[str, Any] | None:
    """``vcgencmd get_throttled``; None for anything but ``throttled=0x…``.

    Without rights vcgencmd prints "Can't open device file…" on standard output and exits 0 (F45).
    """
    found = re.fullmatch(r"throttled=(0x[0-9a-fA-F]+)", text.strip())
    if found is None:
        return None
    bits = int(found[1], 16)
    return {
        "raw": f"{bits:#x}",
        "now": {name: bool(bits >> bit & 1) for name, bit in THROTTLE_BITS.items()},
        "since_boot": {name: bool(bits >> (bit + _SINCE_BOOT_SHIFT) & 1) for name, bit in THROTTLE_BITS.items()},
    }


def parse_temperature(text: str) -> float | None:
    """``vcgencmd measure_temp``: ``temp=48.3'C``."""
    found = re.fullmatch(r"temp=(-?\d+(?:\.\d+)?)'C", text.strip())
    return float(found[1]) if found else None


def parse_pmic(text: str) -> dict[str, dict[str, float | None]]:
    """``vcgencmd pmic_read_adc``: rail → volts and amps. EXT5V and BATT have no amps."""
    rails: dict[str, dict[str, float | None]] = {}
    for line in text.splitlines():
        found = re.fullmatch(r"\s*(\S+)_([AV])\s+(?:current|volt)\(\d+\)=(-?[0-9.]+)[AV]\s*", line)
        if found:
            rail = rails.setdefault(found[1], {"volts": None, "amps": None})
            rail["volts" if found[2] == "V" else "amps"] = float(found[3])
    return rails


def parse_identify(text: str) -> dict[str, Any]:
    """``hailortcli fw-control identify``, both streams: firmware, architecture, mismatch, error.

    No text at all is what a machine without a device says, with exit code 0. ``mismatch`` is True when libhailort
    refused the driver (status 76), None when the text tells nothing.
    """
    firmware = re.search(r"^Firmware Version: (\d+\.\d+\.\d+)", text, re.MULTILINE)
    architecture = re.search(r"^Device Architecture: (\S+)", text, re.MULTILINE)
    refused = re.search(r"Driver version \(([^)]*)\) is different from library version \(([^)]*)\)", text)
    firmware_mismatch = re.search(r"Unsupported firmware operation\. Host: (\S+), Device: (\S+)", text)
    error: str | None = None
    if refused:
        error = f"driver {refused[1]} and library {refused[2]} differ"
    elif firmware_mismatch:
        error = f"host {firmware_mismatch[1]} and firmware {firmware_mismatch[2].rstrip('.')} differ"
    elif architecture is None:
        status = re.search(r"(HAILO_[A-Z_]+\(\d+\))", text)
        last = [line.strip() for line in text.splitlines() if line.strip()][-1:]
        error = status[1] if status else last[0] if last else "no answer"
    mismatch: bool | None = None
    if refused or firmware_mismatch:
        mismatch = True
    elif architecture:
        mismatch = False
    return {
        "firmware_version": firmware[1] if firmware else None,
        "architecture": architecture[1] if architecture else None,
        "mismatch": mismatch,
        "error": error,
    }


def parse_library_version(text: str) -> str | None:
    """``hailortcli --version``: ``HailoRT-CLI version 5.1.1``."""
    found = re.search(r"^HailoRT-CLI version (\d+\.\d+\.\d+)", text, re.MULTILINE)
    return found[1] if found else None


def parse_bootloader_config(text: str) -> str | None:
    """``vcgencmd bootloader_config`` or the nvmem device; None where no line is a setting: an error, or nothing."""
    return text if re.search(r"^[A-Z][A-Z0-9_]*=", text, re.MULTILINE) else None


def parse_scan(text: str) -> list[str]:
    """``hailortcli scan``: PCI addresses. No proof of a working device: it lists one whose firmware never booted."""
    return re.findall(r"^\[-\] Device: (\S+)", text, re.MULTILINE)


def parse_cpuinfo(text: str) -> dict[str, str | None]:
    """Revision and serial of ``/proc/cpuinfo``."""
    fields = {"revision": None, "serial": None}  # type: dict[str, str | None]
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in fields:
            fields[key.strip().lower()] = value.strip()
    return fields


def parse_revision(code: str) -> dict[str, Any]:
    """Decode a revision code: memory in MB and board type; None where the code is of the old style."""
    try:
        bits = int(code, 16)
    except ValueError:
        return {"memory_mb": None, "type": None}
    if not bits & _NEW_STYLE_REVISION:
        return {"memory_mb": None, "type": None}
    return {"memory_mb": 256 << (bits >> 20 & 0x7), "type": bits >> 4 & 0xFF}


def parse_link_speed(text: str) -> float | None:
    """``current_link_speed``: ``8.0 GT/s PCIe`` → 8.0."""
    found = re.match(r"(\d+(?:\.\d+)?) GT/s", text)
    return float(found[1]) if found else None


def parse_meminfo(text: str) -> dict[str, int | None]:
    """Total and available memory in MB (2^20 bytes)."""
    sizes = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", text, re.MULTILINE))
    return {
        "total_mb": int(sizes["MemTotal"]) // 1024 if "MemTotal" in sizes else None,
        "available_mb": int(sizes["MemAvailable"]) // 1024 if "MemAvailable" in sizes else None,
    }


def parse_pressure(text: str) -> float | None:
    """``/proc/pressure/memory``: percent of the last 10 s in which all that wanted to run waited (``full avg10``)."""
    found = re.search(r"^full avg10=(\d+(?:\.\d+)?) ", text, re.MULTILINE)
    return float(found[1]) if found else None


def same_version(*versions: str | None) -> bool | None:
    """True if all are equal, False if two known ones differ, None if one is unknown and the known ones agree."""
    known = {version for version in versions if version is not None}
    if len(known) > 1:
        return False
    return True if known and None not in versions else None


# ── reading ─────────────────────────────────────────────────────────────────


def hardware_root(root: str | None = None) -> Path:
    """The folder below which the board is read (see the module's text)."""
    if root is not None:
        return Path(root)
    if os.environ.get(ROOT_VARIABLE):
        return Path(os.environ[ROOT_VARIABLE])
    lines = (_text(ROOT_FILE) or "").splitlines()
    return Path(lines[0].strip()) if lines and lines[0].strip() else Path("/")


def read(
    root: str | None = None, *, with_hailortcli: bool = True, disk_paths: list[str] | tuple[str, ...] = ("/",)
) -> dict[str, Any]:
    """Return everything about the hardware as JSON values under stable keys; unknown is None.

    ``with_hailortcli=False`` leaves the NPU alone (its firmware version, architecture and temperature stay None): use
    it while another process owns the device, and keep the answer of an earlier call, for versions change only at boot.
    ``disk_paths``: where to report free space; a path that does not exist yet stands for its nearest parent.

    Keys: board, hat, thermal, throttled, undervoltage_now, rails, fan_rpm, cpu_freq_hz, power_supply, kernel, boot,
    eeprom, memory, disk, clock. Units are in the key names (``_c``, ``_mb``, ``_hz``, ``_gts``).
    """
    base = hardware_root(root)
    sensors = read_sensors(root)
    hat = _hat(base, with_hailortcli=with_hailortcli)
    throttled = parse_throttled(_command("vcgencmd", "get_throttled") or "")
    pmic_c = parse_temperature(_command("vcgencmd", "measure_temp", "pmic") or "")
    alarm = sensors["undervoltage_now"]
    return {
        "board": _board(base),
        "hat": hat,
        "thermal": {
            **sensors["thermal"],
            "pmic_c": pmic_c,
            "hat_c": _chip_temperature() if with_hailortcli and hat["driver_bound"] else None,
        },
        "throttled": throttled,
        "undervoltage_now": throttled["now"]["undervoltage"] if alarm is None and throttled else alarm,
        "rails": parse_pmic(_command("vcgencmd", "pmic_read_adc") or ""),
        "fan_rpm": sensors["fan_rpm"],
        "cpu_freq_hz": sensors["cpu_freq_hz"],
        "power_supply": {"max_current_ma": _u32(base / "proc/device-tree/chosen/power/max_current")},
        "kernel": _kernel(base),
        "boot": _boot(base),
        "eeprom": _eeprom(base),
        "memory": sensors["memory"],
        "disk": {"free_mb": {path: _free_mb(Path(path)) for path in disk_paths}},
        "clock": _clock(base),
    }


def read_sensors(root: str | None = None) -> dict[str, Any]:
    """What changes from second to second and sysfs has: no program is started, cheap enough for every scrape.

    ``thermal.soc_c``, ``undervoltage_now``, ``fan_rpm``, ``cpu_freq_hz``, ``memory``, ``link`` (speed and width of
    the HAT). Throttle bits and power rails are not among them: only ``vcgencmd`` has these (``read_firmware``).
    """
    base = hardware_root(root)
    hwmon = _hwmon(base)
    milli_c = _integer(base / "sys/class/thermal/thermal_zone0/temp")
    if milli_c is None and "cpu_thermal" in hwmon:
        milli_c = _integer(hwmon["cpu_thermal"] / "temp1_input")
    alarm = _integer(hwmon["rpi_volt"] / "in0_lcrit_alarm") if "rpi_volt" in hwmon else None
    frequency = _integer(base / "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq")
    device = _pci_device(base)
    return {
        "thermal": {"soc_c": None if milli_c is None else milli_c / 1000},
        "undervoltage_now": None if alarm is None else bool(alarm),
        "fan_rpm": _integer(hwmon["pwmfan"] / "fan1_input") if "pwmfan" in hwmon else None,
        "cpu_freq_hz": None if frequency is None else frequency * 1000,
        "memory": _memory(base),
        "link": _link(device),
    }


def read_firmware(root: str | None = None) -> dict[str, Any]:
    """What only the firmware tells: throttle bits, rails, PMIC temperature. Three short programs, no NPU."""
    del root  # vcgencmd asks the firmware itself; the parameter keeps the three readers alike
    return {
        "throttled": parse_throttled(_command("vcgencmd", "get_throttled") or ""),
        "rails": parse_pmic(_command("vcgencmd", "pmic_read_adc") or ""),
        "pmic_c": parse_temperature(_command("vcgencmd", "measure_temp", "pmic") or ""),
    }


def read_pressure(root: str | None = None) -> dict[str, Any]:
    """What a server under pressure goes by: the sensors, the firmware's throttle bits, and time lost to memory.

    ``memory_stalled_percent`` is None where the kernel does not count it: that of Raspberry Pi OS does with ``psi=1``
    on its command line alone (CONFIG_PSI_DEFAULT_DISABLED). Below another root only what that has: it is not its board.
    """
    return {
        **read_sensors(root),
        "throttled": parse_throttled(_command("vcgencmd", "get_throttled") or ""),
        "memory_stalled_percent": parse_pressure(_text(hardware_root(root) / "proc/pressure/memory") or ""),
    }


def read_clock(root: str | None = None) -> bool | None:
    """Whether the clock is synchronised; None where nobody knows."""
    return _clock(hardware_root(root))["synced"]


def _board(base: Path) -> dict[str, Any]:
    tree = base / "proc/device-tree"
    cpuinfo = parse_cpuinfo(_text(base / "proc/cpuinfo") or "")
    revision = cpuinfo["revision"]
    compatible = _strings(tree / "compatible")
    return {
        "model": _string(tree / "model"),
        "is_pi5": PI5_COMPATIBLE in compatible if compatible else None,
        "serial": _string(tree / "serial-number") or cpuinfo["serial"],
        "revision": revision,
        "memory_mb": parse_revision(revision)["memory_mb"] if revision else None,
    }


def _hat(base: Path, *, with_hailortcli: bool) -> dict[str, Any]:
    device = _pci_device(base)
    # The module, not what it calls itself on the bus: hailo1x_pci is the driver hailo1x there.
    driver = (_link_name(device / "driver/module") or _link_name(device / "driver")) if device else None
    loaded = _text(base / f"sys/module/{driver}/version") if driver else None
    library = parse_library_version(_command("hailortcli", "--version") or "")
    identified: dict[str, Any] = {"firmware_version": None, "architecture": None, "mismatch": None, "error": None}
    if with_hailortcli and device is not None and library is not None:
        identified = parse_identify(
            _command("hailortcli", "fw-control", "identify", timeout=HAILORTCLI_TIMEOUT_S, both=True) or ""
        )
    error = identified["error"]
    if device is not None and driver is None:
        error = "no driver has the device"
    elif device is not None and library is None:
        error = "hailortcli is missing or does not answer"
    agree = same_version(loaded, library, identified["firmware_version"])
    kind = "none" if device is None else PCI_KINDS.get(_text(device / "device") or "", "hat-unknown")
    tree = _eeprom_node(base)
    return {
        "kind": kind,
        "vendor": _string(tree / "vendor") if tree else None,
        "product": _string(tree / "product") if tree else None,
        "pci_address": device.name if device else None,
        "driver": driver,
        "driver_bound": driver is not None,
        "driver_version_loaded": loaded,
        "node": _node(base),
        "link_speed_gts": _link(device)["speed_gts"],
        "link_width": _link(device)["width"],
        "library_version": library,
        "firmware_version": identified["firmware_version"],
        "architecture": identified["architecture"],
        "mismatch": bool(identified["mismatch"]) or agree is False,
        "error": error,
    }


def _pci_device(base: Path) -> Path | None:
    """The Hailo device by vendor id: its address differs between kernels."""
    for device in sorted(base.glob("sys/bus/pci/devices/*")):
        if _text(device / "vendor") == PCI_VENDOR_HAILO:
            return device
    return None


def _link(device: Path | None) -> dict[str, Any]:
    if device is None:
        return {"speed_gts": None, "width": None}
    return {
        "speed_gts": parse_link_speed(_text(device / "current_link_speed") or ""),
        "width": _integer(device / "current_link_width"),
    }


def _node(base: Path) -> str | None:
    nodes = [node for pattern in NODE_PATTERNS for node in sorted(base.glob(pattern))]
    return f"/dev/{nodes[0].name}" if nodes else None


def _eeprom_node(base: Path) -> Path | None:
    """The first HAT in the device tree; stacked boards may have several ``hat*`` nodes."""
    nodes = sorted(base.glob("proc/device-tree/hat*"))
    return nodes[0] if nodes else None


def _chip_temperature() -> float | None:
    """On-die temperature through Hailo's Python binding, in the system's Python: hailortcli has no verb for it."""
    # -I: otherwise modules of the working folder, which is / in a unit, would come before the system's.
    text = _command("/usr/bin/python3", "-I", "-c", _CHIP_TEMPERATURE, timeout=HAILORTCLI_TIMEOUT_S)
    try:
        return float(text or "")
    except ValueError:
        return None


def _hwmon(base: Path) -> dict[str, Path]:
    """Folders of hwmon by name: their numbers change from boot to boot."""
    return {name: folder for folder in sorted(base.glob("sys/class/hwmon/*")) if (name := _text(folder / "name"))}


def _kernel(base: Path) -> dict[str, Any]:
    cmdline = _text(base / "proc/cmdline")
    lsm = _text(Path("/sys/kernel/security/lsm"))
    return {
        "release": _text(base / "proc/sys/kernel/osrelease"),
        "cmdline": None if cmdline is None else cmdline.split(),
        "page_size": os.sysconf("SC_PAGE_SIZE"),
        # Never from the root: a profile is enforced by the kernel that runs, or not at all.
        "lsm": None if lsm is None else lsm.split(","),
    }


def _boot(base: Path) -> dict[str, Any]:
    """Where the boot configuration lies, and what firmware tells of this boot.

    Bookworm and later mount the partition at /boot/firmware. ``tryboot``: started with the one-shot flag;
    ``reset_status`` is the PM_RSTS register as it was at boot (its bits are not documented): told, not judged.
    """
    folders = (base / "boot/firmware", Path("/boot/firmware"))
    told = base / "proc/device-tree/chosen/bootloader"
    tryboot = _u32(told / "tryboot")
    status = _u32(told / "pm_rsts")
    paths = {
        f"{name.replace('.', '_')}_path": next((str(path / name) for path in folders if (path / name).is_file()), None)
        for name in ("config.txt", "cmdline.txt")
    }
    return {
        **paths,
        "boot_id": _text(base / "proc/sys/kernel/random/boot_id"),
        "tryboot": None if tryboot is None else bool(tryboot),
        "partition": _u32(told / "partition"),
        "reset_status": None if status is None else f"{status:#x}",
        "watchdog": _watchdog(base / "sys/class/watchdog/watchdog0"),
    }


def _watchdog(device: Path) -> dict[str, Any]:
    """The hardware watchdog: ``active`` says that somebody opened it; a configuration alone proves nothing."""
    return {
        "identity": _text(device / "identity"),
        "state": _text(device / "state"),
        "timeout_s": _integer(device / "timeout"),
    }


def _eeprom(base: Path) -> dict[str, Any]:
    """The bootloader: its build, the least build that this board takes, and its configuration.

    ``bootloader_version`` is the build's date (UTC, ``2025-05-08``), which EEPROM images are named after.
    ``min_boot_ver`` is compared with an image's MFG_VER. ``config`` is None where it cannot be read: bootloaders
    before 2025-02-11 do not tell newer kernels, and whoever takes silence for an empty one writes defaults.
    """
    timestamp = _u32(base / "proc/device-tree/chosen/bootloader/build-timestamp")
    date = None if timestamp is None else datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d")
    return {
        "bootloader_version": date,
        "bootloader_timestamp": timestamp,
        "min_boot_ver": _u32(base / "proc/device-tree/chosen/rpi-min-boot-ver"),
        "config": parse_bootloader_config(_blconfig(base) or _command("vcgencmd", "bootloader_config") or ""),
    }


def _blconfig(base: Path) -> str | None:
    """The nvmem device that the alias ``blconfig`` names: found by the node it links to, as its number may change."""
    node = _string(base / "proc/device-tree/aliases/blconfig")
    if node is None:
        return None
    for device in sorted(base.glob("sys/bus/nvmem/devices/*")):
        with contextlib.suppress(OSError):
            if str((device / "of_node").readlink()).endswith(node):
                return (_bytes(device / "nvmem") or b"").rstrip(b"\0\xff").decode(errors="replace")
    return None


def _memory(base: Path) -> dict[str, int | None]:
    """The root's memory if it says any, else the running system's."""
    return parse_meminfo(_text(base / "proc/meminfo") or _text(Path("/proc/meminfo")) or "")


def _free_mb(path: Path) -> int | None:
    for candidate in (path, *path.parents):
        try:
            return shutil.disk_usage(candidate).free // (1 << 20)
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def _clock(base: Path) -> dict[str, bool | None]:
    """Whether the clock is synchronised: systemd-timesyncd's flag file, else what the kernel tells timedatectl.

    Below another root only the flag file counts: the clock is not that board's.
    """
    flag = (base / "run/systemd/timesync/synchronized").exists()
    if flag or base != Path("/"):
        return {"synced": flag}
    answer = (_command("timedatectl", "show", "--property=NTPSynchronized", "--value") or "").strip()
    return {"synced": {"yes": True, "no": False}.get(answer)}


def _command(*argv: str, timeout: float = COMMAND_TIMEOUT_S, both: bool = False) -> str | None:
    """Standard output of a program (with ``both``, standard error first), whatever its exit code; None: no program."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C", "HAILORT_LOGGER_PATH": "NONE"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stderr + done.stdout if both else done.stdout


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _text(path: Path) -> str | None:
    data = _bytes(path)
    return None if data is None else data.decode(errors="replace").strip()


def _integer(path: Path) -> int | None:
    try:
        return int(_text(path) or "")
    except ValueError:
        return None


def _strings(path: Path) -> list[str]:
    """A device-tree string list: NUL-terminated strings."""
    return [part.decode(errors="replace") for part in (_bytes(path) or b"").split(b"\0") if part]


def _string(path: Path) -> str | None:
    return next(iter(_strings(path)), None)


def _u32(path: Path) -> int | None:
    """A device-tree cell: 32 bits, big-endian."""
    data = _bytes(path)
    return struct.unpack(">I", data)[0] if data is not None and len(data) == 4 else None  # noqa: PLR2004


def _link_name(path: Path) -> str | None:
    try:
        return path.readlink().name
    except OSError:
        return None
