"""A play touches hosts in batches or says why not; it never gathers facts twice and never stops healthy hosts."""

from __future__ import annotations

from typing import Any

import pytest


def violations(where: str, play: dict[str, Any]) -> list[str]:
    found = []
    if "serial" not in play and not str((play.get("vars") or {}).get("serial_reason") or "").strip():
        found.append(f"{where}: neither serial nor vars.serial_reason")
    if play.get("gather_facts") is not False:
        found.append(f"{where}: gather_facts is not false; preflight reads the host once")
    if play.get("any_errors_fatal"):
        found.append(f"{where}: any_errors_fatal stops healthy hosts for a broken one")
    roles = [role["role"] if isinstance(role, dict) else role for role in play.get("roles", [])]
    if roles and roles[0] != "preflight":
        found.append(f"{where}: its first role is {roles[0]}; preflight reads what the others decide from")
    found += [
        f"{where}: the role {role['role']} lacks its own name as a tag"
        for role in play.get("roles", [])
        if isinstance(role, dict) and role["role"] not in role.get("tags", [])
    ]
    return found


def test_every_play_keeps_it(plays: list[tuple[str, dict[str, Any]]]) -> None:
    assert [violation for where, play in plays for violation in violations(where, play)] == []
    assert any(where.startswith("playbooks/site.yml") for where, _ in plays)


GOOD: dict[str, Any] = {
    "hosts": "pis",
    "gather_facts": False,
    "serial": 1,
    "roles": [{"role": "preflight", "tags": ["preflight"]}],
}


def test_a_good_play_passes() -> None:
    assert violations("p", GOOD) == []


@pytest.mark.parametrize(
    "change,text",
    [
        ({"serial": None, "vars": {"serial_reason": " "}}, ""),
        ({"gather_facts": True}, "gather_facts"),
        ({"any_errors_fatal": True}, "any_errors_fatal"),
        ({"roles": ["base"]}, "its first role is base"),
        ({"roles": [{"role": "preflight", "tags": []}]}, "tag"),
    ],
)
def test_it_can_fail(change: dict[str, Any], text: str) -> None:
    play = {key: value for key, value in (GOOD | change).items() if value is not None}
    found = violations("p", play)
    assert len(found) == 1
    assert text in found[0]
