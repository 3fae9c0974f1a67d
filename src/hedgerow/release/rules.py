"""What is known of combinations, as data: a rule each, with its source and what breaking it means.

A rule yields a sentence for each breach, beginning with the key to change. Order is the table's on the screen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from hedgerow.inventory.model import HailoPin
from hedgerow.release import known
from hedgerow.release.known import Chip
from hedgerow.release.model import Combination, Rule, Status
from hedgerow.release.versions import numbers, upstream, within

# The kernel removed del_timer_sync between 6.15 and 6.16; the earlier one is on the safe side (facts §3.5).
_TIMER_KERNEL = (6, 15)
_TIMER_DRIVERS = ((5, 3), (5, 4))  # from, below: 5.3.x; of 5.4 it is not known


def _sets(of: Combination) -> Iterator[tuple[Chip, HailoPin, list[str]]]:
    """Each chip that the fleet has: its row of the lock and its hosts."""
    for chip in known.CHIPS:
        hosts = [name for hat in chip.hats for name in of.hats.get(hat, ())]
        if hosts:
            yield chip, getattr(of.release, chip.row), hosts


def _three_versions(of: Combination) -> Iterator[str]:
    for chip, pin, _ in _sets(of):
        versions = {"driver": pin.driver, "library": pin.library, "firmware": pin.firmware}
        if len({version for version in versions.values() if version is not None}) > 1:
            listed = ", ".join(f"{name} {version}" for name, version in versions.items())
            yield f"{chip.row}: {listed}"


def _packages_agree(of: Combination) -> Iterator[str]:
    for chip, pin, _ in _sets(of):
        for names, member, wanted in (
            (chip.library, "library", pin.library),
            (chip.driver, "driver", pin.driver),
        ):
            carried = {name: pin.packages[name] for name in names if name in pin.packages}
            if wanted is not None and not carried:
                yield f"{chip.row}.packages: none of {', '.join(names)} is named, {member} is {wanted}"
            for name, version in carried.items():
                if wanted is not None and upstream(version) != wanted:
                    yield f"{chip.row}.packages.{name} is {version}, {member} is {wanted}"


def _set_of_the_chip(of: Combination) -> Iterator[str]:
    for chip, pin, hosts in _sets(of):
        for version in {pin.driver, pin.library} - {None}:
            if numbers(str(version))[:1] != (chip.major,):
                yield f"{chip.row}: {version} is not of {chip.major}.x, which {hosts[0]} needs"


def _set_is_pinned(of: Combination) -> Iterator[str]:
    for chip, pin, hosts in _sets(of):
        if pin.driver is None or pin.library is None or not pin.packages:
            yield f"{chip.row} pins nothing, and {', '.join(hosts)} have the HAT"


def _wrong_packages(of: Combination) -> Iterator[str]:
    for chip, pin, _ in _sets(of):
        wrong = "hailo-all" if chip.row == "hailo_10h" else "hailo-h10-all"
        if wrong in pin.packages:
            yield f"{chip.row}.packages.{wrong} is the other NPU's metapackage"


def _archive_version(of: Combination) -> Iterator[str]:
    for chip, pin, _ in _sets(of):
        shipped = known.ARCHIVE[chip.row]
        if pin.driver is not None and pin.driver != shipped and pin.driver in known.SEEN[chip.row]:
            yield f"{chip.row}.driver is {pin.driver}, the archive ships {shipped}"


def _unknown_version(of: Combination) -> Iterator[str]:
    for chip, pin, _ in _sets(of):
        if pin.driver is not None and pin.driver not in known.SEEN[chip.row]:
            yield f"{chip.row}.driver {pin.driver} is none of {', '.join(known.SEEN[chip.row])}"


def _driver_builds(of: Combination) -> Iterator[str]:
    kernel = numbers(of.release.kernel.version or "")
    for chip, pin, _ in _sets(of):
        driver = numbers(pin.driver or "")
        if kernel[:2] >= _TIMER_KERNEL and _TIMER_DRIVERS[0] <= driver[:2] < _TIMER_DRIVERS[1]:
            yield f"{chip.row}.driver {pin.driver} with kernel.version {of.release.kernel.version}"


def _driver_may_build(of: Combination) -> Iterator[str]:
    kernel = numbers(of.release.kernel.version or "")
    for chip, pin, _ in _sets(of):
        if kernel[:2] >= _TIMER_KERNEL and numbers(pin.driver or "")[:2] >= _TIMER_DRIVERS[1]:
            yield f"{chip.row}.driver {pin.driver} with kernel.version {of.release.kernel.version}"


def _page_size(of: Combination) -> Iterator[str]:
    kernel = of.release.kernel
    wanted = known.PAGE_SIZES.get(kernel.flavour or "")
    if kernel.flavour is not None and kernel.page_size is not None and kernel.page_size != wanted:
        yield f"kernel.page_size is {kernel.page_size}, kernel.flavour {kernel.flavour} has {wanted}"
    if kernel.flavour is not None and kernel.package is not None and not kernel.package.endswith(kernel.flavour):
        yield f"kernel.package is {kernel.package}, kernel.flavour is {kernel.flavour}"
    headers = of.release.headers.package
    if kernel.flavour is not None and headers is not None and not headers.endswith(kernel.flavour):
        yield f"headers.package is {headers}, kernel.flavour is {kernel.flavour}"


def _old_driver_large_pages(of: Combination) -> Iterator[str]:
    if of.release.kernel.page_size != known.PAGE_SIZES["rpi-2712"]:
        return
    for chip, pin, hosts in _sets(of):
        if chip.row != "hailo_8" or pin.driver is None or numbers(pin.driver) >= numbers(known.ARCHIVE[chip.row]):
            continue
        bare = [name for name in hosts if of.driver_options.get(name, {}).get("force_desc_page_size") != "4096"]
        if bare:
            missing = "without hat_module_options.force_desc_page_size: 4096"
            yield f"{chip.row}.driver {pin.driver} on {', '.join(bare)} {missing}"


def _binaries_large_pages(of: Combination) -> Iterator[str]:
    pages = of.release.kernel.page_size
    for name, largest in (of.odd_binaries or {}).items():
        if pages is not None and largest < pages:
            yield f"kernel.page_size is {pages}, {name} bears {largest} at most"


def _headers_in_step(of: Combination) -> Iterator[str]:
    kernel, headers = of.release.kernel, of.release.headers
    if of.hats and kernel.deb is not None and headers.deb != kernel.deb:
        yield f"headers.deb is {headers.deb}, kernel.deb is {kernel.deb}"
    if kernel.deb is not None and kernel.version is not None and upstream(kernel.deb) != kernel.version:
        yield f"kernel.deb is {kernel.deb}, kernel.version is {kernel.version}"


def _dkms(of: Combination) -> Iterator[str]:
    if of.hats and of.release.kernel.package is not None and of.release.dkms.version is None:
        yield "dkms.version is null"


def _kernel_is_raspberry(of: Combination) -> Iterator[str]:
    package = of.release.kernel.package
    if package is not None and package not in known.KERNEL_PACKAGES:
        yield f"kernel.package is {package}, none of {', '.join(known.KERNEL_PACKAGES)}"


def _kernel_is_known(of: Combination) -> Iterator[str]:
    version = of.release.kernel.version
    if version is not None and version not in known.KERNELS:
        yield f"kernel.version {version} is none of {', '.join(known.KERNELS)}"


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


def _mender_archive_path(of: Combination) -> Iterator[str]:
    for source in of.sources:
        for uri in source.uris:
            if "mender" in uri and uri.rstrip("/").endswith(known.MENDER_OLD_PATH):
                yield f"os_pinning_sources.{source.name}: {uri}"


def _archive_key(of: Combination) -> Iterator[str]:
    for source in of.sources:
        if source.key_expiry is not None and source.key_expiry <= of.now:
            ended = time.strftime("%Y-%m-%d", time.gmtime(source.key_expiry))
            yield f"os_pinning_sources.{source.name}: its key ended on {ended}"


def _hef_chip(of: Combination) -> Iterator[str]:
    bundle = of.bundle
    if bundle is None or bundle.format != "hef":
        return
    chips = {known.ARCHITECTURES[hat] for hat in bundle.hats if hat in known.ARCHITECTURES}
    if not chips:
        yield f"{bundle.reference}: requires.hat names no HAT, and a HEF is built for one chip"
    elif len(chips) > 1:
        yield f"{bundle.reference}: requires.hat means {', '.join(sorted(chips))}, a HEF is built for one chip"


def _bundle_host(of: Combination) -> Iterator[str]:
    bundle = of.bundle
    if bundle is not None and bundle.hats and not any(host.hat in bundle.hats for host in of.hosts.values()):
        yield f"{bundle.reference}: requires.hat is {', '.join(bundle.hats)}, no host of the inventory has one"


def _bundle_stack(of: Combination) -> Iterator[str]:
    bundle = of.bundle
    if bundle is None:
        return
    for chip, pin, _ in _sets(of):
        if not set(chip.hats) & set(bundle.hats):
            continue
        for member, version, wanted in (
            ("hailort", pin.library, bundle.hailort),
            ("firmware", pin.firmware, bundle.firmware),
        ):
            if wanted is not None and (version is None or not _satisfies(version, wanted)):
                yield f"{bundle.reference}: requires.{member} is {wanted}, {chip.row} has {version or 'no pin'}"


def _bundle_runtime(of: Combination) -> Iterator[str]:
    bundle = of.bundle
    if bundle is not None and bundle.runtime is not None and not _satisfies(of.release.runtime.version, bundle.runtime):
        have = of.release.runtime.version
        yield f"{bundle.reference}: requires.runtime is {bundle.runtime}, runtime.version is {have}"


def _satisfies(version: str, specifier: str) -> bool:
    try:
        return within(version, specifier)
    except ValueError:
        return False  # what cannot be read cannot be met


RULES: tuple[Rule, ...] = (
    Rule(
        "hailo-one-version",
        "Driver, library and firmware of a HAT must be equal in major, minor and revision, or every call fails.",
        "§3.4, F1, F2",
        Status.FORBIDDEN,
        _three_versions,
    ),
    Rule(
        "hailo-packages",
        "The packages of a set must carry the very versions that the set names.",
        "§3.2, F1",
        Status.FORBIDDEN,
        _packages_agree,
    ),
    Rule(
        "hailo-chip",
        "Hailo-10H takes 5.x alone, Hailo-8 and 8L take 4.x alone.",
        "§3.1, §3.2, F5",
        Status.FORBIDDEN,
        _set_of_the_chip,
    ),
    Rule(
        "hailo-wrong-stack",
        "hailo-all is Hailo-8's metapackage and hailo-h10-all is Hailo-10H's, although both are called 5.1.1.",
        "§3.2, F5",
        Status.FORBIDDEN,
        _wrong_packages,
    ),
    Rule(
        "hailo-pinned",
        "A HAT whose set is not pinned loses its driver with some upgrade.",
        "§1.4, F1, F6",
        Status.UNVERIFIED,
        _set_is_pinned,
    ),
    Rule(
        "hailo-archive",
        "What Raspberry Pi's archive ships is the known-good lane; any other version is one's own to test.",
        "§3.4",
        Status.OPT_IN,
        _archive_version,
    ),
    Rule(
        "hailo-known",
        "A version of the HAT's stack that nobody is known to have run on these boards.",
        "§3.2, §3.4",
        Status.UNVERIFIED,
        _unknown_version,
    ),
    Rule(
        "driver-builds",
        "Driver 5.3 does not build on kernels from 6.15 on, and leaves dpkg half configured.",
        "§3.5, F7",
        Status.FORBIDDEN,
        _driver_builds,
    ),
    Rule(
        "driver-may-build",
        "Whether drivers from 5.4 on build on kernels from 6.15 on is told of one unit alone.",
        "§3.4, §3.5, F7",
        Status.UNVERIFIED,
        _driver_may_build,
    ),
    Rule(
        "kernel-flavour",
        "rpi-2712 has pages of 16 KiB and rpi-v8 of 4 KiB; kernel, headers and flavour name the same one.",
        "§1.1, §2.4",
        Status.FORBIDDEN,
        _page_size,
    ),
    Rule(
        "driver-pages",
        "Drivers 4.x before 4.23 refuse pages of 16 KiB unless they are told force_desc_page_size=4096.",
        "§2.4, §3.5, F11",
        Status.FORBIDDEN,
        _old_driver_large_pages,
    ),
    Rule(
        "binary-pages",
        "A binary built for pages of 4 KiB aborts on a kernel with 16 KiB.",
        "§2.4, F12",
        Status.FORBIDDEN,
        _binaries_large_pages,
    ),
    Rule(
        "kernel-headers",
        "Kernel and headers are one version: without its headers a kernel has no driver for the HAT.",
        "§1.4, F6",
        Status.FORBIDDEN,
        _headers_in_step,
    ),
    Rule(
        "kernel-dkms",
        "dkms is in no image and builds the HAT's driver: a fleet that pins its kernel pins dkms.",
        "§1.2, §3.3, F6",
        Status.UNVERIFIED,
        _dkms,
    ),
    Rule(
        "kernel-raspberry",
        "Raspberry Pi's kernels alone get the HAT's driver; other systems bring their own 4.x or none.",
        "§1.5, F43",
        Status.FORBIDDEN,
        _kernel_is_raspberry,
    ),
    Rule(
        "kernel-known",
        "A kernel that no image and no field unit known to us runs.",
        "§1.1",
        Status.UNVERIFIED,
        _kernel_is_known,
    ),
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
    Rule(
        "mender-archive",
        "Mender's repository moved in November 2025; the old path answers 403.",
        "§5.1, F25",
        Status.FORBIDDEN,
        _mender_archive_path,
    ),
    Rule(
        "archive-key",
        "An archive whose key is over fails every apt update (Mender's ended on 2026-10-01).",
        "§5.1, F25",
        Status.FORBIDDEN,
        _archive_key,
    ),
    Rule("hef-chip", "A HEF is built for one chip.", "§3.4", Status.FORBIDDEN, _hef_chip),
    Rule("bundle-host", "A bundle needs a host that has its HAT.", "§3.1", Status.FORBIDDEN, _bundle_host),
    Rule(
        "bundle-stack",
        "A bundle's range of HailoRT and firmware must hold what the lock brings.",
        "§3.4",
        Status.FORBIDDEN,
        _bundle_stack,
    ),
    Rule(
        "bundle-runtime",
        "A bundle's range of the runtime must hold the lock's.",
        "manifest",
        Status.FORBIDDEN,
        _bundle_runtime,
    ),
)
BY_ID = {rule.id: rule for rule in RULES}
