"""A configuration is validated by its own daemon before it lands, wherever a validator is known."""

from __future__ import annotations

import re
from typing import Any

import pytest

# Target path → what must stand in `validate`.
VALIDATORS = {
    r"/etc/systemd/system/[^/]+\.(service|timer|socket|path|mount)$": "systemd-analyze verify",
    r"/etc/apparmor\.d/[^/]+$": "apparmor_parser -Q -K",
    r"/etc/udev/rules\.d/.+\.rules$": "udevadm verify",
    r"/etc/apt/preferences\.d/": "apt-cache",
    r"/etc/apt/apt\.conf\.d/": "apt-config",
    r"/etc/sudoers\.d/": "visudo -c",
    r"/etc/ssh/sshd_config": "sshd -t",
    r"/etc/nginx/nginx\.conf$": "nginx -t",
    r"/etc/nftables": "nft -c -f",
    r"/etc/prometheus/.*rules.*\.yml$": "promtool check rules",
    r"/etc/prometheus/prometheus\.yml$": "promtool check config",
    r"/etc/alertmanager/.*\.yml$": "amtool check-config",
}


def violations(role: Any) -> list[str]:
    found = []
    for entry in role.placed:
        if not {"template", "content", "file"} & entry.keys():
            continue
        dest = str(entry.get("dest", "/" + str(entry.get("template") or entry.get("file")).removesuffix(".j2")))
        for pattern, validator in VALIDATORS.items():
            if re.match(pattern, dest) and validator not in str(entry.get("validate", "")):
                found.append(f"{role.name}: {dest} lands without `{validator}`")
    for task in role.tasks:
        for module in ("ansible.builtin.template", "ansible.builtin.copy"):
            arguments = task.get(module) or {}
            for pattern, validator in VALIDATORS.items():
                if re.match(pattern, str(arguments.get("dest", ""))) and validator not in str(
                    arguments.get("validate", "")
                ):
                    found.append(f"{role.name}: {arguments['dest']} lands without `{validator}`")
    return found


def test_every_role_keeps_it(roles: list[Any]) -> None:
    assert [violation for role in roles for violation in violations(role)] == []


def test_the_project_has_files_that_it_applies_to(roles: list[Any]) -> None:
    validated = [entry for role in roles for entry in role.placed if "systemd-analyze" in str(entry.get("validate"))]
    assert len(validated) >= 2


@pytest.mark.parametrize(
    "entry",
    [
        {"template": "etc/systemd/system/x.service.j2"},
        {"template": "etc/systemd/system/x.service.j2", "validate": "true %s"},
        {"file": "/x/y", "dest": "/etc/apparmor.d/y"},
        {"content": "x", "dest": "/etc/sudoers.d/x"},
    ],
)
def test_it_can_fail(make_role: Any, entry: dict[str, Any]) -> None:
    role = make_role(name="x", files={"run": [{"name": "p", "hedgerow_files": {"files": [entry]}}]})
    assert len(violations(role)) == 1


def test_a_module_task_can_fail_it_too(make_role: Any) -> None:
    task = {"name": "t", "ansible.builtin.template": {"src": "a", "dest": "/etc/ssh/sshd_config"}}
    assert len(violations(make_role(name="x", files={"run": [task]}))) == 1
