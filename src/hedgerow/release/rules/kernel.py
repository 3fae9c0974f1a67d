"""The kernel: whether the HAT's driver builds on it, its pages, its headers."""

from __future__ import annotations

from collections.abc import Iterator

from hedgerow.release import known
from hedgerow.release.model import Combination, Rule, Status
from hedgerow.release.rules.sets import sets
from hedgerow.release.versions import numbers, upstream

# The kernel removed del_timer_sync between 6.15 and 6.16; the earlier one is on the safe side (facts §3.5).
_TIMER_KERNEL = (6, 15)
_TIMER_DRIVERS = ((5, 3), (5, 4))  # from, below: 5.3.x; of 5.4 it is not known


def _driver_builds(of: Combination) -> Iterator[str]:
    kernel = numbers(of.release.kernel.version or "")
    for chip, pin, _ in sets(of):
        driver = numbers(pin.driver or "")
        if kernel[:2] >= _TIMER_KERNEL and _TIMER_DRIVERS[0] <= driver[:2] < _TIMER_DRIVERS[1]:
            yield f"{chip.row}.driver {pin.driver} with kernel.version {of.release.kernel.version}"


def _driver_may_build(of: Combination) -> Iterator[str]:
    kernel = numbers(of.release.kernel.version or "")
    for chip, pin, _ in sets(of):
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
    for chip, pin, hosts in sets(of):
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


RULES: tuple[Rule, ...] = (
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
)
