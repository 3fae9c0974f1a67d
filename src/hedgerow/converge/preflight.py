"""Is this host the one that the inventory means, and fit to be converged?

All problems are found at once: a person fixes one card, one cable and one line
of the inventory in one go. Each problem says what is wrong and what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def problems(host: Mapping[str, Any], facts: Mapping[str, Any], limits: Mapping[str, Any]) -> list[str]:
    """Return one text a problem; empty where the host may be converged.

    ``host``: ``name``, ``pi_serial``, ``suite`` of the inventory. ``facts``:
    what ``hedgerow_facts`` returns. ``limits``: ``memory_mb``, ``disk_free_mb``,
    ``clock_skew_s``.
    """
    found = [
        _board(host, facts["hardware"]["board"]),
        _suite(host, facts["state"]["os"]),
        _memory(facts["hardware"]["board"]["memory_mb"], limits["memory_mb"]),
        _disk(facts["state"]["disk_free_mb"], limits["disk_free_mb"]),
        _clock(facts["clock_skew_s"], limits["clock_skew_s"]),
    ]
    return [problem for problem in found if problem is not None]


def _board(host: Mapping[str, Any], board: Mapping[str, Any]) -> str | None:
    if not board["is_pi5"]:
        return (
            f"this is no Raspberry Pi 5: it calls itself {board['model'] or 'nothing'}. "
            f"Check ansible_host of {host['name']} in the inventory."
        )
    if board["serial"] == host["pi_serial"]:
        return None
    return (
        f"the board's serial is {board['serial']}, the inventory says {host['pi_serial']}. Either ansible_host of "
        f"{host['name']} leads to another board, or the board was replaced: then write the new serial into pi_serial."
    )


def _suite(host: Mapping[str, Any], system: Mapping[str, Any]) -> str | None:
    if system.get("version_codename") == host["suite"]:
        return None
    return (
        f"the host runs {system.get('pretty_name') or 'an unknown system'}, fleet_release.os.suite says "
        f"{host['suite']}. Write a {host['suite']} image to the card: converging never upgrades across suites."
    )


def _memory(has_mb: int | None, needed_mb: int) -> str | None:
    if has_mb is None or has_mb >= needed_mb:
        return None
    return (
        f"the board has {has_mb} MiB of memory, at least {needed_mb} are needed. "
        f"Use a larger board, or lower preflight_memory_minimum_mb if a smaller model is served."
    )


def _disk(free_mb: Mapping[str, int | None], needed_mb: int) -> str | None:
    for place in ("/", "/var/lib"):
        free = free_mb.get(place)
        if free is not None and free < needed_mb:
            return (
                f"{free} MiB are free on {place}, at least {needed_mb} are needed for a runtime and two models. "
                f"Look for what fills it: sudo du -xh --max-depth=2 {place} | sort -h | tail"
            )
    return None


def _clock(skew_s: float, allowed_s: float) -> str | None:
    if abs(skew_s) <= allowed_s:
        return None
    return (
        f"the clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the controller's; certificates "
        f"would look expired or not yet valid. Check NTP on both: timedatectl timesync-status (a Pi 5 keeps time over "
        f"a power cut only with a battery on J5)."
    )
