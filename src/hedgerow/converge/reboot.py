"""Why a host waits for a reboot. No role reboots one; they say it.

needrestart is told by Raspberry Pi OS never to report a pending kernel, so the
running release is compared with the newest installed image (facts §1.2, F46).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hedgerow.converge import boot

# linux-image-6.18.50+rpt-rpi-2712 (facts §1.4); metapackages have no digit after "image-".
_VERSIONED_IMAGE = re.compile(r"^linux-image-(\d.*)$")


def reasons(facts: Mapping[str, Any], cmdline_present: Sequence[str], changed_paths: Sequence[str]) -> list[str]:
    """One text a reason.

    ``cmdline_present`` are the tokens that the kernel should have been started
    with, ``changed_paths`` what this very run has written below the boot partition.
    """
    kernel = facts["hardware"]["kernel"]
    changed = {path.rpartition("/")[2] for path in changed_paths} | {*facts["state"]["boot"]["changed_since_boot"]}
    found = [f"{name} changed since it booted" for name in sorted(changed)]
    if kernel["cmdline"] is not None and "cmdline.txt" not in changed:
        missing = boot.missing_tokens(kernel["cmdline"], cmdline_present)
        if missing:
            found.append(f"its kernel was started without {' '.join(missing)}")
    pending = pending_kernel(kernel["release"], facts["packages"])
    if pending is not None:
        found.append(f"kernel {pending} is installed, {kernel['release']} runs")
    return found


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
