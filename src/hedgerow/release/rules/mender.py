"""Mender's client, and images of mender-convert."""

from __future__ import annotations

from collections.abc import Iterator

from hedgerow.release import known
from hedgerow.release.model import Combination, Rule, Status


def _mender_variant(of: Combination) -> Iterator[str]:
    client = of.release.mender_client
    wanted = known.MENDER_MAJOR[client.variant]
    if not client.version.startswith(wanted):
        yield f"mender_client.version {client.version} is not of {client.variant}, which has {' and '.join(wanted)}x"


def _mender_upstream(of: Combination) -> Iterator[str]:
    if of.release.mender_client.variant == "upstream":
        yield f"mender_client.variant is upstream ({of.release.mender_client.version})"


def _mender_kernel(of: Combination) -> Iterator[str]:
    kernel = of.release.kernel
    if of.release.mender_client.integration != "rootfs":
        return
    if kernel.flavour != "rpi-v8" or kernel.page_size != known.PAGE_SIZES["rpi-v8"]:
        yield (
            f"mender_client.integration is rootfs, kernel.flavour is {kernel.flavour} with pages of {kernel.page_size}"
        )


def _mender_new_boards(of: Combination) -> Iterator[str]:
    large = [name for name, size in of.memory_mb.items() if size >= known.LARGE_BOARD_MB]
    if large and of.release.mender_client.integration == "rootfs":
        yield f"mender_client.integration is rootfs, {', '.join(large)} have 16 GiB boards (e04171)"


def _mender_kernel_by_apt(of: Combination) -> Iterator[str]:
    if of.release.mender_client.integration != "rootfs":
        return
    if of.release.kernel.package is None or of.release.raspi_firmware.version is None:
        yield "mender_client.integration is rootfs, kernel.package or raspi_firmware.version is null"


RULES: tuple[Rule, ...] = (
    Rule(
        "mender-variant",
        "Debian has Mender 3.4, Mender's own repository 5 and later; their packages and state differ.",
        "§5.1",
        Status.FORBIDDEN,
        _mender_variant,
    ),
    Rule(
        "mender-upstream",
        "Role mender_client is written for Debian's client.",
        "§5.1",
        Status.OPT_IN,
        _mender_upstream,
    ),
    Rule(
        "mender-kernel",
        "Mender's rootfs integration boots kernel8.img: rpi-v8, pages of 4 KiB.",
        "§5.9, F38",
        Status.FORBIDDEN,
        _mender_kernel,
    ),
    Rule(
        "mender-new-boards",
        "U-Boot needs support for boards with the D0 stepping, or it stops at its prompt.",
        "§5.9, F38",
        Status.UNVERIFIED,
        _mender_new_boards,
    ),
    Rule(
        "mender-apt-kernel",
        "On an image of mender-convert kernel and boot files are pinned, so that apt replaces none outside the slots.",
        "§5.9, F24",
        Status.FORBIDDEN,
        _mender_kernel_by_apt,
    ),
)
