"""Every role has one shape, and says what it takes in one place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PHASES = ("preflight", "install", "configure", "run")


def shape(role: Any) -> list[str]:
    """`tasks/main.yml` imports the phases, in order, nothing else; other task files are used by a phase or a play."""
    found = []
    imported = [task.get("ansible.builtin.import_tasks", "") for task in role.files.get("main", [])]
    phases = [name.removesuffix(".yml") for name in imported]
    if not phases or [phase for phase in PHASES if phase in phases] != phases:
        found.append(f"{role.name}: tasks/main.yml imports {phases}; it should import phases of {PHASES}, in order")
    used = role.entered | {
        str(task.get(f"ansible.builtin.{verb}", "")).removesuffix(".yml")
        for task in role.tasks
        for verb in ("import_tasks", "include_tasks")
    }
    found += [
        f"{role.name}: nobody uses tasks/{name}.yml" for name in role.files if name != "main" and name not in used
    ]
    return found


def specs(role: Any) -> list[str]:
    """`defaults/main.yml` and `meta/argument_specs.yml` have the same keys with the same values."""
    if role.options is None:
        return [f"{role.name}: meta/argument_specs.yml has no main entry with options"]
    found = [f"{role.name}: {key} is in defaults alone" for key in sorted(role.defaults.keys() - role.options.keys())]
    required = {key for key, option in role.options.items() if option.get("required")}
    found += [
        f"{role.name}: {key} is in argument_specs alone"
        for key in sorted(role.options.keys() - role.defaults.keys() - required)
    ]
    found += [
        f"{role.name}: {key} is {role.defaults[key]!r} in defaults, {option.get('default')!r} in argument_specs"
        for key, option in role.options.items()
        if key in role.defaults and option.get("default") != role.defaults[key]
    ]
    found += [
        f"{role.name}: default of {key} is none of its choices, which Ansible refuses when the role runs"
        for key, option in role.options.items()
        if "choices" in option and "default" in option and not _is_template(option["default"])
        for value in (option["default"] if option.get("type") == "list" else [option["default"]])
        if value not in option["choices"]
    ]
    found += [
        f"{role.name}: {key} has no description"
        for key, option in role.options.items()
        if not option.get("description")
    ]
    return found


def _is_template(value: Any) -> bool:
    return isinstance(value, str) and "{{" in value


def names(role: Any) -> list[str]:
    """Three levels: `role_x` public, `_role_x` internal, `_role_result_x` registered."""
    found = [
        f"{role.name}: default {key} lacks the prefix" for key in role.defaults if not key.startswith(f"{role.name}_")
    ]
    found += [
        f"{role.name}: vars {key} lacks the prefix _{role.name}_"
        for key in role.vars
        if not key.startswith(f"_{role.name}_") and key != "hedgerow_facts"
    ]
    found += [
        f"{role.name}: {task['register']} should begin with _{role.name}_result"
        for task in role.tasks
        if "register" in task and not str(task["register"]).startswith(f"_{role.name}_result")
    ]
    return found


def modules(role: Any) -> list[str]:
    """Modules by full name, and no shell; each `command` says when it changes something."""
    found = []
    for task in role.tasks:
        where = f"{role.name}: {task.get('name', '?')}"
        if any(key in task for key in ("ansible.builtin.shell", "shell", "ansible.builtin.raw", "raw")):
            found.append(f"{where}: shell; use a module, or command with argv")
        if "command" in task or "ansible.builtin.command" in task:
            command = task.get("ansible.builtin.command") or task.get("command")
            if not isinstance(command, dict) or "argv" not in command:
                found.append(f"{where}: command without argv")
            if "changed_when" not in task and "creates" not in (command or {}):
                found.append(f"{where}: command without changed_when")
        if task.get("ignore_errors") or task.get("failed_when") is False:
            found.append(f"{where}: a failure is swallowed")
        if "name" not in task:
            found.append(f"{where}: a task without a name")
    return found


def templates(role: Any) -> list[str]:
    """A template's path is its target's path; each is used."""
    rendered = {entry["template"] for entry in role.placed if "template" in entry}
    rendered |= {str(task.get("ansible.builtin.template", {}).get("src")) for task in role.tasks}
    tops = ("etc/", "usr/", "var/", "opt/", "boot/", "run/", "data/")
    found = [
        f"{role.name}: templates/{path} is no path of a target" for path in role.templates if not path.startswith(tops)
    ]
    found += [f"{role.name}: nobody renders templates/{path}" for path in role.templates if path not in rendered]
    return found


POLICIES = (shape, specs, names, modules, templates)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_every_role_keeps_it(policy: Any, roles: list[Any]) -> None:
    assert [violation for role in roles for violation in policy(role)] == []


def test_there_are_roles_to_keep_it(roles: list[Any]) -> None:
    assert {"preflight", "base", "inference_runtime"} <= {role.name for role in roles}


def test_each_role_is_in_the_site(roles: list[Any], plays: list[tuple[str, dict[str, Any]]]) -> None:
    used = {r["role"] if isinstance(r, dict) else r for _, play in plays for r in play.get("roles", [])}
    assert {role.name for role in roles} - used == set()


GOOD: dict[str, Any] = {
    "name": "x",
    "files": {
        "main": [{"name": "Run", "ansible.builtin.import_tasks": "run.yml"}],
        "run": [
            {"name": "Do", "ansible.builtin.command": {"argv": ["true"]}, "changed_when": True, "register": "_x_result"}
        ],
    },
    "defaults": {"x_a": 1},
    "options": {"x_a": {"default": 1, "description": "An a."}},
    "vars": {"_x_b": 2},
}


def with_task(**task: Any) -> dict[str, Any]:
    return {"files": GOOD["files"] | {"run": [{"name": "Do"} | task]}}


def test_a_good_role_passes_all(make_role: Any) -> None:
    assert [violation for policy in POLICIES for violation in policy(make_role(**GOOD))] == []


@pytest.mark.parametrize(
    "policy,change,text",
    [
        (shape, {"files": {"main": [{"name": "Do", "ansible.builtin.debug": {"msg": "x"}}]}}, "should import phases"),
        (
            shape,
            {
                "files": {
                    "main": [{"ansible.builtin.import_tasks": f"{p}.yml"} for p in ("run", "install")],
                    "run": [],
                    "install": [],
                }
            },
            "in order",
        ),
        (shape, {"files": GOOD["files"] | {"orphan": []}}, "nobody uses tasks/orphan.yml"),
        (specs, {"options": None}, "no main entry"),
        (specs, {"defaults": {"x_a": 1, "x_b": 2}}, "x_b is in defaults alone"),
        (specs, {"defaults": {}}, "x_a is in argument_specs alone"),
        (specs, {"defaults": {"x_a": 2}}, "x_a is 2 in defaults, 1 in argument_specs"),
        (specs, {"options": {"x_a": {"default": None, "choices": ["a"]}}, "defaults": {"x_a": None}}, "none of its"),
        (specs, {"options": {"x_a": {"default": 1}}}, "no description"),
        (names, {"defaults": {"a": 1}}, "lacks the prefix"),
        (names, {"vars": {"x_b": 1}}, "lacks the prefix _x_"),
        (names, with_task(register="result"), "should begin with _x_result"),
        (modules, with_task(**{"ansible.builtin.shell": "ls"}), "shell"),
        (modules, with_task(**{"ansible.builtin.command": "ls"}), "without argv"),
        (modules, with_task(**{"ansible.builtin.command": {"argv": ["ls"]}}), "without changed_when"),
        (modules, with_task(ignore_errors=True), "swallowed"),
        (modules, {"files": {"run": [{"block": [{"ansible.builtin.debug": {}}], "name": "b"}]}}, "without a name"),
        (templates, {"templates": ("x.conf.j2",)}, "no path of a target"),
        (templates, {"templates": ("etc/x.conf.j2",)}, "nobody renders"),
    ],
)
def test_each_policy_can_fail(make_role: Any, policy: Any, change: dict[str, Any], text: str) -> None:
    assert text in " ".join(policy(make_role(**(GOOD | change))))


def test_readmes_are_generated_from_the_specs(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, root / "tools/role_readmes.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
