"""The system and the board: suite, PCIe lane, bootloader."""

from __future__ import annotations

from collections.abc import Iterator

from hedgerow.release import known
from hedgerow.release.model import Combination, Rule, Status


def _bookworm_h10(of: Combination) -> Iterator[str]:
    if of.release.os.suite == "bookworm" and "hat-plus-2" in of.hats:
        yield f"os.suite is bookworm, {', '.join(of.hats['hat-plus-2'])} have AI HAT+ 2"


def _suite_is_known(of: Combination) -> Iterator[str]:
    if of.release.os.suite != "trixie":
        yield f"os.suite is {of.release.os.suite}"


def _python(of: Combination) -> Iterator[str]:
    has = known.PYTHON.get(of.release.os.suite)
    if has is not None and of.release.runtime.python != has:
        yield f"runtime.python is {of.release.runtime.python}, {of.release.os.suite} has {has}"


def _one_lane(of: Combination) -> Iterator[str]:
    for name, host in of.hosts.items():
        if host.hat != "none" and host.storage == "nvme":
            yield f"{name}: hat is {host.hat}, storage is nvme"


def _eeprom_for_the_kernel(of: Combination) -> Iterator[str]:
    minimum = of.release.eeprom.minimum
    if of.release.kernel.version is not None and (minimum or "") < known.EEPROM_KERNEL_MINIMUM:
        yield f"eeprom.minimum is {minimum}, kernel {of.release.kernel.version} needs {known.EEPROM_KERNEL_MINIMUM}"


def _eeprom_for_the_hat(of: Combination) -> Iterator[str]:
    minimum = of.release.eeprom.minimum
    if of.hats and minimum is not None and minimum < known.EEPROM_HAT_MINIMUM:
        yield f"eeprom.minimum is {minimum}, HATs need {known.EEPROM_HAT_MINIMUM}"


def _eeprom_can_be_met(of: Combination) -> Iterator[str]:
    eeprom = of.release.eeprom
    head = known.EEPROM_HEADS.get((eeprom.version or "", eeprom.channel or ""))
    if head is not None and eeprom.minimum is not None and eeprom.minimum > head:
        yield f"eeprom.minimum is {eeprom.minimum}, rpi-eeprom {eeprom.version} has {head} in {eeprom.channel}"


def _eeprom_of_large_boards(of: Combination) -> Iterator[str]:
    large = [name for name, size in of.memory_mb.items() if size >= known.LARGE_BOARD_MB]
    if large and of.release.eeprom.version is None:
        yield f"eeprom.version is null, {', '.join(large)} have 16 GiB"


RULES: tuple[Rule, ...] = (
    Rule(
        "suite-h10",
        "There is no Hailo-10H stack for bookworm.",
        "§1.1",
        Status.FORBIDDEN,
        _bookworm_h10,
    ),
    Rule(
        "suite-known",
        "Roles are written for trixie and tested on nothing else.",
        "§1.1",
        Status.UNVERIFIED,
        _suite_is_known,
    ),
    Rule(
        "suite-python",
        "The runtime is built for the Python of the suite.",
        "§3.2",
        Status.FORBIDDEN,
        _python,
    ),
    Rule(
        "one-lane",
        "A Pi 5 has one PCIe lane: a HAT and an NVMe disk exclude each other.",
        "§2.3, F39",
        Status.FORBIDDEN,
        _one_lane,
    ),
    Rule(
        "eeprom-kernel",
        "Bootloaders from before 2025-02-11 hang or lose their settings with these kernels.",
        "§2.6, F27, F29",
        Status.FORBIDDEN,
        _eeprom_for_the_kernel,
    ),
    Rule(
        "eeprom-hat",
        "Bootloaders from before 2023-12-06 do not find an AI HAT+.",
        "§2.3",
        Status.FORBIDDEN,
        _eeprom_for_the_hat,
    ),
    Rule(
        "eeprom-reachable",
        "The package's channel must hold a build that is new enough.",
        "§2.6",
        Status.FORBIDDEN,
        _eeprom_can_be_met,
    ),
    Rule(
        "eeprom-large-boards",
        "Images of an rpi-eeprom older than the board leave a 16 GiB board dead.",
        "§2.6, F28",
        Status.FORBIDDEN,
        _eeprom_of_large_boards,
    ),
)
