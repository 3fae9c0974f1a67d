"""Why a host waits for a reboot. No role reboots one; they say it.

needrestart is told by Raspberry Pi OS never to report a pending kernel, so the
running release is compared with the newest installed image (facts §1.2, F46).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hedgerow.converge import boot
from hedgerow.errors import UsageError

_BOOT = "/boot/firmware/"
# linux-image-6.18.50+rpt-rpi-2712 (facts §1.4); metapackages have no digit after "image-".
_VERSIONED_IMAGE = re.compile(r"^linux-image-(\d.*)$")


def reasons(
    facts: Mapping[str, Any],
    cmdline_present: Sequence[str],
    changed_paths: Sequence[str],
    *,
    bootloader_written: bool = False,
) -> list[str]:
    """One text a reason.

    ``cmdline_present`` are the tokens that the kernel should have been started with. ``changed_paths`` is what this
    very run has written, of which only the boot partition's files count; ``bootloader_written`` likewise.
    """
    kernel = facts["hardware"]["kernel"]
    written = {path.removeprefix(_BOOT) for path in changed_paths if path.startswith(_BOOT)}
    changed = written | {*facts["state"]["boot"]["changed_since_boot"]}
    found = [f"{name} changed since it booted" for name in sorted(changed)]
    if kernel["cmdline"] is not None and "cmdline.txt" not in changed:
        missing = boot.missing_tokens(kernel["cmdline"], cmdline_present)
        if missing:
            found.append(f"its kernel was started without {' '.join(missing)}")
    if bootloader_written or _bootloader_waits(facts):
        found.append("a bootloader update waits")
    pending = pending_kernel(kernel["release"], facts["packages"])
    if pending is not None:
        found.append(f"kernel {pending} is installed, {kernel['release']} runs")
    return found


def _bootloader_waits(facts: Mapping[str, Any]) -> bool:
    """An update that lies on the boot partition since this boot and is not what runs."""
    staged, running = facts["state"]["eeprom"]["staged"], facts["hardware"]["eeprom"]
    if staged is None or staged["before_this_boot"]:
        return False
    runs: bool = (staged["timestamp"], staged["config"]) == (running["bootloader_timestamp"], running["config"])
    return not runs


def in_window(window: str | None, now: str) -> bool:
    """Whether ``now`` (``HH:MM``) lies in ``window`` (``HH:MM-HH:MM``, over midnight too); no window is always open."""
    if not window:
        return True
    found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", window)
    if found is None:
        raise UsageError(
            f"{window!r} is no window",
            where="reboot_window",
            next_step="write for example -e reboot_window=02:00-04:30",
        )
    begin, end = window.split("-")
    return begin <= now < end if begin <= end else now >= begin or now < end


def pending_kernel(running: str | None, packages: Mapping[str, str]) -> str | None:
    """The kernel that the next boot takes: the newest installed one of the running one's flavour, if it is another.

    An older one waits, too, once the running one's image is no longer installed: so a lock goes back (F46).
    """
    if running is None:
        return None
    _, rpi, flavour = running.partition("-rpi-")
    installed = [match[1] for name in packages if (match := _VERSIONED_IMAGE.match(name))]
    # Another system's kernel (a virtual machine's) is followed by its own kind alone.
    alike = [one for one in installed if (one.endswith(f"-rpi-{flavour}") if rpi else "-rpi-" not in one)]
    newest = max(alike, key=numbers, default=None)
    if newest is None or newest == running:
        return None
    return newest if numbers(newest) > numbers(running) or running not in installed else None


def numbers(release: str) -> list[int]:
    """The numbers of a kernel release before its suffix: versions are no text, 6.9 is before 6.18."""
    return [int(number) for number in re.findall(r"\d+", release.partition("+")[0])]
