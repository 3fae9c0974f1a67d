"""One path, one unit, one user has one writer, across roles, playbooks and deploys."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Ansible module → its argument that names what it writes.
_PATH_MODULES = {
    "template": "dest",
    "copy": "dest",
    "file": "path",
    "lineinfile": "path",
    "blockinfile": "path",
    "get_url": "dest",
}
_NAME_MODULES = {"user": "user", "group": "group", "systemd_service": "unit", "systemd": "unit", "service": "unit"}
# pyinfra operation → (kind, its argument).
_OPERATIONS = {
    "files.put": ("path", "dest"),
    "files.template": ("path", "dest"),
    "files.file": ("path", "path"),
    "files.directory": ("path", "path"),
    "files.link": ("path", "path"),
    "files.line": ("path", "path"),
    "files.block": ("path", "path"),
    "sudoers": ("path", "path"),
    "server.user": ("user", "user"),
    "server.group": ("group", "group"),
    "systemd.service": ("unit", "service"),
    "server.service": ("unit", "service"),
}

Claim = tuple[str, str]


def claims_of_role(role: Any) -> Iterator[Claim]:
    """(kind, name) of everything that the role writes; names that hold a variable count literally."""
    for entry in role.placed:
        yield "path", target(entry)
    yield from claims_of_tasks(role.tasks)


def claims_of_play(play: dict[str, Any], flatten: Any) -> Iterator[Claim]:
    """The same of a playbook's own tasks on devices. What it removes (decommissioning) has its writer elsewhere."""
    if play["hosts"] == "localhost":
        return
    tasks = [
        task
        for part in ("pre_tasks", "tasks", "post_tasks", "handlers")
        for task in flatten(play.get(part))
        if task.get("delegate_to") != "localhost" and "'state': 'absent'" not in str(task)
    ]
    for task in tasks:
        for entry in (task.get("hedgerow_files") or task.get("hedgerow_guarded") or {}).get("files", []):
            if "absent" not in entry:
                yield "path", target(entry)
    yield from claims_of_tasks(tasks)


def claims_of_tasks(tasks: list[dict[str, Any]]) -> Iterator[Claim]:
    for task in tasks:
        for module, argument in _PATH_MODULES.items():
            if (arguments := task.get(f"ansible.builtin.{module}")) is not None:
                yield "path", str(arguments[argument])
        for module, kind in _NAME_MODULES.items():
            if "name" in (arguments := task.get(f"ansible.builtin.{module}") or {}):
                yield kind, str(arguments["name"])
        if (unit := task.get("hedgerow_unit")) is not None and unit.get("state") not in {"restarted", "reloaded"}:
            yield "unit", str(unit["name"])


def target(entry: dict[str, Any]) -> str:
    """The path that an entry of `hedgerow_files` writes."""
    for kind in ("directory", "link", "absent", "dest"):
        if kind in entry:
            return str(entry[kind])
    return "/" + str(entry.get("template") or entry.get("file")).removesuffix(".j2")


def claims_of_deploy(source: str) -> Iterator[Claim]:
    """The same of a pyinfra deploy: literal arguments of known operations."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        kind, argument = _OPERATIONS.get(ast.unparse(node.func), (None, None))
        for keyword in node.keywords:
            if kind is not None and keyword.arg == argument:
                constant = isinstance(keyword.value, ast.Constant)
                yield kind, str(keyword.value.value) if constant else f"{{{ast.unparse(keyword.value)}}}"


def conflicts(claims: Iterable[tuple[str, Claim]]) -> list[str]:
    writers: dict[Claim, set[str]] = defaultdict(set)
    for writer, claim in claims:
        writers[claim].add(writer)
    return [
        f"{kind} {name} has {len(who)} writers: {', '.join(sorted(who))}"
        for (kind, name), who in sorted(writers.items())
        if len(who) > 1
    ]


@pytest.fixture
def claims(
    roles: list[Any], plays: list[tuple[str, dict[str, Any]]], flatten: Any, root: Path
) -> list[tuple[str, Claim]]:
    found = [(f"roles/{role.name}", claim) for role in roles for claim in claims_of_role(role)]
    for where, play in plays:
        playbook = where.partition(":")[0]
        if playbook.startswith("playbooks/"):
            found += [(playbook, claim) for claim in claims_of_play(play, flatten)]
    for path in sorted((root / "deploy").rglob("*.py")):
        name = str(path.relative_to(root))
        found += [(name, claim) for claim in claims_of_deploy(path.read_text(encoding="utf-8"))]
    return found


def test_everything_has_one_writer(claims: list[tuple[str, Claim]]) -> None:
    assert conflicts(claims) == []


def test_the_names_of_the_contract_have_the_writers_of_the_contract(claims: list[tuple[str, Claim]]) -> None:
    """The anchors: were the parser blind, these would be missing."""
    by_claim = {claim: writer for writer, claim in claims}
    assert by_claim["path", "/etc/hedgerow/server.yml"] == "roles/inference_runtime"
    assert by_claim["unit", "hedgerow-server.service"] == "roles/inference_runtime"
    assert by_claim["user", "hedgerow-server"] == "roles/inference_runtime"
    assert by_claim["path", "/etc/hedgerow/device.yml"] == "roles/model_store"
    assert by_claim["path", "/boot/firmware/config.txt"] == "roles/boot_config"
    assert by_claim["path", "/etc/systemd/system/rpi-eeprom-update.service"] == "roles/boot_config"
    assert by_claim["unit", "hedgerow-boot-trial.service"] == "roles/boot_config"
    assert by_claim["unit", "hedgerow-deadline.timer"] == "roles/model_store"
    assert by_claim["unit", "hedgerow-agent.service"] == "roles/model_store"
    assert by_claim["path", "/etc/systemd/journald.conf.d/50-hedgerow.conf"] == "roles/storage"
    assert by_claim["unit", "var-lib-hedgerow.mount"] == "roles/storage"
    assert by_claim["path", "/etc/crypttab"] == "roles/storage"
    assert by_claim["path", "/etc/sudoers.d/50-hedgerow-admin"] == "deploy/bootstrap.py"
    assert by_claim["path", "/etc/ssh/sshd_config.d/00-hedgerow.conf"] == "roles/hardening"
    assert by_claim["path", "/etc/nftables.conf"] == "roles/hardening"
    assert by_claim["unit", "nftables.service"] == "roles/hardening"
    assert by_claim["path", "/etc/apt/preferences.d/50-hedgerow.pref"] == "roles/os_pinning"
    assert by_claim["path", "/etc/hedgerow/pins.json"] == "roles/os_pinning"


def test_two_roles_with_one_path_conflict(make_role: Any) -> None:
    placing = make_role(
        name="a", files={"run": [{"name": "p", "hedgerow_files": {"files": [{"template": "etc/x.conf.j2"}]}}]}
    )
    copying = make_role(
        name="b", files={"run": [{"block": [{"name": "c", "ansible.builtin.copy": {"dest": "/etc/x.conf"}}]}]}
    )
    found = conflicts([(role.name, claim) for role in (placing, copying) for claim in claims_of_role(role)])
    assert found == ["path /etc/x.conf has 2 writers: a, b"]


def test_a_role_and_a_deploy_with_one_unit_or_user_conflict(make_role: Any) -> None:
    tasks = [
        {"name": "u", "hedgerow_unit": {"name": "x.service", "state": "started"}},
        {"name": "v", "ansible.builtin.user": {"name": "joe"}},
    ]
    role = make_role(name="a", files={"run": tasks})
    deploy = (
        'systemd.service(name="Start", service="x.service")\nserver.user(user="joe")\nserver.user(user=host.data.admin)'
    )
    found = conflicts(
        [("a", claim) for claim in claims_of_role(role)]
        + [("deploy/x.py", claim) for claim in claims_of_deploy(deploy)]
    )
    assert found == ["unit x.service has 2 writers: a, deploy/x.py", "user joe has 2 writers: a, deploy/x.py"]


def test_a_role_may_restart_its_own_unit_and_write_a_path_in_two_tasks(make_role: Any) -> None:
    entry = {"name": "p", "hedgerow_files": {"files": [{"content": "x", "dest": "/etc/x"}]}}
    role = make_role(name="a", files={"run": [entry, entry]})
    assert conflicts([("a", claim) for claim in claims_of_role(role)]) == []


def test_a_playbook_that_writes_what_a_role_writes_conflicts(make_role: Any, flatten: Any) -> None:
    entry = {"name": "p", "hedgerow_files": {"files": [{"content": "x", "dest": "/etc/x"}]}}
    role = make_role(name="a", files={"run": [entry]})
    play = {"hosts": "pis", "tasks": [{"block": [{"ansible.builtin.copy": {"dest": "/etc/x"}}]}]}
    removing = {"hosts": "pis", "tasks": [{"ansible.builtin.file": {"path": "/etc/x", "state": "absent"}}]}
    elsewhere = {"hosts": "localhost", "tasks": [{"ansible.builtin.copy": {"dest": "/etc/x"}}]}
    ours = [("a", claim) for claim in claims_of_role(role)]
    assert len(conflicts([*ours, *(("p.yml", claim) for claim in claims_of_play(play, flatten))])) == 1
    for harmless in (removing, elsewhere):
        assert conflicts([*ours, *(("p.yml", claim) for claim in claims_of_play(harmless, flatten))]) == []
