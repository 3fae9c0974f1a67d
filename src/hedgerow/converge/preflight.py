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
    return [
        *_board(host, facts["hardware"]),
        *_system(host, facts["state"]),
        *_room(facts, limits),
        *_clock(facts, limits),
    ]


def _board(host: Mapping[str, Any], hardware: Mapping[str, Any]) -> list[str]:
    board = hardware["board"]
    found = []
    if not board["is_pi5"]:
        found.append(
            f"this is no Raspberry Pi 5: it calls itself {board['model'] or 'nothing'}. "
            f"Check ansible_host of {host['name']} in the inventory."
        )
    elif board["serial"] != host["pi_serial"]:
        found.append(
            f"the board's serial is {board['serial']}, the inventory says {host['pi_serial']}. "
            f"Either ansible_host of {host['name']} leads to another board, or the board was replaced: "
            f"then write the new serial into pi_serial."
        )
    return found


def _system(host: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    suite = state["os"].get("version_codename")
    if suite == host["suite"]:
        return []
    return [
        f"the host runs {state['os'].get('pretty_name') or 'an unknown system'}, fleet_release.os.suite says "
        f"{host['suite']}. Write a {host['suite']} image to the card: converging never upgrades across suites."
    ]


def _room(facts: Mapping[str, Any], limits: Mapping[str, Any]) -> list[str]:
    found = []
    memory = facts["hardware"]["board"]["memory_mb"]
    if memory is not None and memory < limits["memory_mb"]:
        found.append(
            f"the board has {memory} MiB of memory, at least {limits['memory_mb']} are needed. "
            f"Use a larger board, or lower preflight_memory_minimum_mb if a smaller model is served."
        )
    for place in ("/", "/var/lib"):
        free = facts["state"]["disk_free_mb"].get(place)
        if free is not None and free < limits["disk_free_mb"]:
            found.append(
                f"{free} MiB are free on {place}, at least {limits['disk_free_mb']} are needed for a runtime and two "
                f"models. Look for what fills it: sudo du -xh --max-depth=2 {place} | sort -h | tail"
            )
            break  # mostly one file system
    return found


def _clock(facts: Mapping[str, Any], limits: Mapping[str, Any]) -> list[str]:
    skew = facts["clock_skew_s"]
    if abs(skew) <= limits["clock_skew_s"]:
        return []
    direction = "ahead of" if skew > 0 else "behind"
    return [
        f"the clock is {abs(skew):.0f} s {direction} the controller's; certificates would look expired or not yet "
        f"valid. Check NTP on both: timedatectl timesync-status (a Pi 5 keeps time only with a battery on J5)."
    ]
