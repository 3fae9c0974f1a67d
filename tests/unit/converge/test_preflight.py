from __future__ import annotations

from typing import Any

import pytest

from hedgerow.converge.preflight import problems

HOST = {"name": "pi-1", "pi_serial": "e0d1c2b3a4950011", "suite": "trixie"}
LIMITS = {"memory_mb": 900, "disk_free_mb": 1500, "clock_skew_s": 60}


def facts(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "is_pi5": True,
        "serial": "e0d1c2b3a4950011",
        "memory_mb": 8192,
        "codename": "trixie",
        "free": 9000,
        "skew": 0.2,
    } | changes
    return {
        "hardware": {
            "board": {
                "is_pi5": values["is_pi5"],
                "model": "Raspberry Pi 4 Model B" if not values["is_pi5"] else "Raspberry Pi 5 Model B Rev 1.1",
                "serial": values["serial"],
                "memory_mb": values["memory_mb"],
            }
        },
        "state": {
            "os": {"version_codename": values["codename"], "pretty_name": "Debian"},
            "disk_free_mb": {"/": values["free"], "/var/lib": values["free"]},
        },
        "clock_skew_s": values["skew"],
    }


def test_a_host_as_the_inventory_says_has_no_problem() -> None:
    assert problems(HOST, facts(), LIMITS) == []


@pytest.mark.parametrize(
    "change, what, next_step",
    [
        ({"is_pi5": False}, "no Raspberry Pi 5: it calls itself Raspberry Pi 4", "ansible_host of pi-1"),
        ({"is_pi5": None}, "no Raspberry Pi 5", "ansible_host"),
        ({"serial": "00000000deadbeef"}, "00000000deadbeef, the inventory says e0d1c2b3a4950011", "pi_serial"),
        ({"memory_mb": 512}, "512 MiB of memory", "larger board"),
        ({"codename": "bookworm"}, "fleet_release.os.suite says trixie", "Write a trixie image"),
        ({"free": 100}, "100 MiB are free on /,", "du -xh"),
        ({"skew": -7200.0}, "7200 s behind", "timedatectl"),
        ({"skew": 61.0}, "61 s ahead of", "NTP"),
    ],
)
def test_each_problem_says_what_and_what_next(change: dict[str, Any], what: str, next_step: str) -> None:
    found = problems(HOST, facts(**change), LIMITS)
    assert len(found) == 1
    assert what in found[0]
    assert next_step in found[0]


def test_all_problems_come_at_once() -> None:
    assert len(problems(HOST, facts(serial="0" * 16, codename="bookworm", skew=999), LIMITS)) == 3


def test_an_unknown_memory_size_is_no_problem() -> None:
    assert problems(HOST, facts(memory_mb=None), LIMITS) == []
