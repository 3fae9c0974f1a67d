"""What to do about a board's bootloader: nothing, write the pinned image with the wanted configuration, or refuse.

Rules (facts §2.6):

- One image is pinned: the newest of the lock's channel in the installed (pinned) package; a folder of that channel
  for the board's own revision comes first, as the tool has it.
- Configuration and version change only together and only as asked. ``rpi-eeprom-config --apply`` and ``--edit`` put a
  configuration into the channel's newest image, which is another version than the running one (F26): never used. A key
  that differs while the board runs another build than the pinned image is an update to that image, or refused where
  the image is older.
- A configuration that cannot be read is not an empty one: writing then would put the defaults in its place (F27).
- An image older than the board (``MFG_VER`` below ``rpi-min-boot-ver``) may leave it dead (F28).
- A board below the fleet's minimum gets no newer kernel before its bootloader is up to date (F29).
- A frozen board (``FREEZE_VERSION=1``) is left alone: whoever froze it meant it.
- What is staged on the boot partition is not what runs: the build is read again after the reboot, and an update that a
  warm reboot passed by asks for a cold one (F44).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from hedgerow.errors import UsageError

_FLAG = (re.compile(r"[01]"), "0 or 1")
_COUNT = (re.compile(r"\d{1,5}"), "a whole number")
_RETRIES = (re.compile(r"-1|\d{1,5}"), "a whole number, or -1 for no limit")
# Key → form of its value, and the form in words (facts §2.6).
KEYS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "BOOT_ORDER": (re.compile(r"0x[0-7ef]{1,8}"), "0x and up to eight of the digits 1-7, e and f, for example 0xf416"),
    "PSU_MAX_CURRENT": (re.compile(r"3000|5000"), "3000 or 5000 (mA)"),
    "PCIE_PROBE": _FLAG,
    "POWER_OFF_ON_HALT": _FLAG,
    "WAKE_ON_GPIO": _FLAG,
    "WAIT_FOR_POWER_BUTTON": _FLAG,
    "BOOT_UART": _FLAG,
    "BOOT_WATCHDOG_TIMEOUT": _COUNT,
    "BOOT_WATCHDOG_PARTITION": _COUNT,
    "PARTITION": _COUNT,
    "PARTITION_WALK": _FLAG,
    "MAX_RESTARTS": _RETRIES,
    "REBOOT_ON_FATAL_ERROR": _FLAG,
    "SD_BOOT_MAX_RETRIES": _RETRIES,
    "SD_OVERCURRENT_CHECK": _FLAG,
    "NET_INSTALL_ENABLED": _FLAG,
    "NET_INSTALL_AT_POWER_ON": _FLAG,
    "ENABLE_SELF_UPDATE": _FLAG,
}


@dataclass(slots=True)
class Plan:
    """``image`` and ``config`` are what to write, None where nothing is. ``problems`` stop the role."""

    image: str | None = None
    timestamp: int | None = None
    config: str | None = None
    why: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def merged(*layers: Mapping[str, Any]) -> dict[str, str]:
    """Keys of fleet, group and host, the later over the earlier; refused where one is unknown or not of its form."""
    found = {str(key): str(value) for layer in layers for key, value in layer.items()}
    for key, value in found.items():
        where = f"boot_config_eeprom_keys: {key}"
        if key == "FREEZE_VERSION":
            raise UsageError(
                "FREEZE_VERSION is not set from here: undoing it takes a recovery image on an SD card, board by board",
                where=where,
                next_step="mask the unattended update instead (boot_config_eeprom_unattended: false, the default)",
            )
        if key not in KEYS:
            raise UsageError(
                "this bootloader key is not known here", where=where, next_step=f"one of: {', '.join(sorted(KEYS))}"
            )
        pattern, words = KEYS[key]
        if pattern.fullmatch(value) is None:
            raise UsageError(f"{key} cannot be {value!r}", where=where, next_step=f"write {words}, in quotes")
    return found


def with_keys(config: str, keys: Mapping[str, str]) -> str:
    """``config`` with ``keys`` set for every board; sections for some boards, and ``[config.txt]``, stay as they are.

    A key is replaced where it counts: its last line outside of any section but ``[all]``. A new one goes to the end of
    that part.
    """
    lines = config.splitlines()
    general: list[int] = []
    section = "all"
    for number, line in enumerate(lines):
        if line.startswith("[") and line.rstrip().endswith("]"):
            # What follows [config.txt] belongs to it, filters included.
            section = section if section == "config.txt" else line.strip()[1:-1]
        if section == "all":
            general.append(number)
    added = []
    for key, value in keys.items():
        places = [number for number in general if lines[number].partition("=")[0] == key]
        if places:
            lines[places[-1]] = f"{key}={value}"
        else:
            added.append(f"{key}={value}")
    if added:
        filled = [number for number in general if lines[number].strip()]
        at = filled[-1] + 1 if filled else 0
        lines[at:at] = added
    return "\n".join(lines) + "\n"


def setting(config: str, key: str) -> str | None:
    """The value that counts on every board."""
    found = [line.partition("=")[2] for line in _general(config) if line.partition("=")[0] == key]
    return found[-1] if found else None


def _general(config: str) -> list[str]:
    found, section = [], "all"
    for line in config.splitlines():
        if line.startswith("["):
            section = section if section == "config.txt" else line.strip()[1:-1]
        elif section == "all":
            found.append(line)
    return found


def plan(
    facts: Mapping[str, Any], release: Mapping[str, Any], keys: Mapping[str, str], *, downgrade: bool = False
) -> dict[str, Any]:
    """Decide from ``hedgerow_facts`` and ``fleet_release``; ``keys`` as ``merged`` returns them."""
    return asdict(_plan(facts, release["eeprom"], keys, downgrade=downgrade))


def _plan(facts: Mapping[str, Any], pin: Mapping[str, Any], keys: Mapping[str, str], *, downgrade: bool) -> Plan:
    result = Plan()
    running = facts["hardware"]["eeprom"]
    channel = pin["channel"]
    if channel is None:
        if keys:
            result.problems.append(
                "bootloader keys are set and the lock pins no bootloader image to put them in: set "
                "fleet_release.eeprom.channel"
            )
        result.problems += _below_minimum(running, pin)
        return result
    image = pinned(facts, channel)
    build = running["bootloader_timestamp"]
    if image is None or image["timestamp"] is None:
        result.problems.append(
            f"there is no bootloader image of the channel {channel} in /usr/lib/firmware/raspberrypi/bootloader-2712: "
            "install rpi-eeprom (fleet_release.eeprom.version), or bring your own channel's folder"
        )
        return result
    if build is None:
        result.remarks.append("the running bootloader does not tell its build; it is left alone")
        return result
    config = running["config"]
    wanted = None if config is None else with_keys(config, keys)
    result.why = _differences(image, build, config, keys)
    _judge_staged(result, facts, image, wanted)
    if not result.why:
        result.problems += _below_minimum(running, pin)
        return result
    result.problems += _forbidden(running, image, downgrade=downgrade)
    if not result.problems:
        result.image, result.timestamp, result.config = image["path"], image["timestamp"], wanted
    return result


def pinned(facts: Mapping[str, Any], channel: str) -> dict[str, Any] | None:
    """The image that the lock means on this board, as ``state.eeprom.images`` has it."""
    images: Mapping[str, dict[str, Any]] = facts["state"]["eeprom"]["images"]
    code = facts["hardware"]["board"]["revision"] or ""
    special = (f"{channel}-{code.zfill(8)}", f"{channel}-{code}")
    return next((images[name] for name in (*special, channel) if name in images), None)


def _differences(image: Mapping[str, Any], build: int, config: str | None, keys: Mapping[str, str]) -> list[str]:
    found = []
    if image["timestamp"] != build:
        found.append(f"it runs the bootloader of {_date(build)}, pinned is {_date(image['timestamp'])}")
    found += [
        f"{key} is {setting(config, key) or 'not set'}, wanted is {value}"
        for key, value in keys.items()
        if config is not None and setting(config, key) != value
    ]
    return found


def _forbidden(running: Mapping[str, Any], image: Mapping[str, Any], *, downgrade: bool) -> list[str]:
    """Why the update may not be written, though one is wanted."""
    config, least = running["config"], running["min_boot_ver"]
    found = []
    if config is None:
        found.append(
            "its present configuration cannot be read (bootloaders before 2025-02-11 do not tell newer kernels), and "
            "an update would reset BOOT_ORDER and the rest to defaults (F27). Write down what it should be, flash it "
            "by hand with an explicit file (rpi-eeprom-config IMAGE --config boot.conf --out new.bin; "
            "rpi-eeprom-update -d -f new.bin), power cycle, run again"
        )
    elif setting(config, "FREEZE_VERSION") == "1":
        found.append(
            "it is frozen (FREEZE_VERSION=1). Unfreeze it with a recovery image on an SD card, or leave it out"
        )
    if image["timestamp"] < running["bootloader_timestamp"] and not downgrade:
        found.append(
            f"the pinned image ({_date(image['timestamp'])}) is older than what runs. Raise fleet_release.eeprom, or "
            "allow it with boot_config_eeprom_downgrade: true"
        )
    if least is not None and (image["mfg_version"] or 0) < least:
        found.append(
            f"the pinned image's MFG_VER is {image['mfg_version'] or 0}, the board needs at least {least}: it is newer "
            "than the image and may never start again (F28). Raise fleet_release.eeprom.version first"
        )
    return found


def _below_minimum(running: Mapping[str, Any], pin: Mapping[str, Any]) -> list[str]:
    if not too_old(running, pin):
        return []
    text = (
        f"its bootloader is of {running['bootloader_version']}, the lock's minimum is {pin['minimum']}, and nothing "
        "here updates it: newer kernels may not boot (F29)"
    )
    return [text]


def too_old(running: Mapping[str, Any], pin: Mapping[str, Any]) -> bool:
    """Whether ``hardware.eeprom`` is below the lock's minimum; dates compare as they are written."""
    version, minimum = running["bootloader_version"], pin["minimum"]
    return version is not None and minimum is not None and version < minimum


def _judge_staged(result: Plan, facts: Mapping[str, Any], image: Mapping[str, Any], wanted: str | None) -> None:
    """An update that waits already is not staged again; one that a boot has passed by is told."""
    staged = facts["state"]["eeprom"]["staged"]
    if staged is None or not result.why:
        return
    if staged["timestamp"] != image["timestamp"] or staged["config"] != wanted:
        return  # another update: it is replaced by ours
    if staged["before_this_boot"]:
        result.remarks.append(
            f"the bootloader of {_date(staged['timestamp'])} was staged before this boot and does not run: a warm "
            "reboot passed it by. Cut the power and give it again, then converge (F44)"
        )
    else:
        result.remarks.append(f"the bootloader of {_date(staged['timestamp'])} is staged and waits for a reboot")
    result.why = []


def _date(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d")
