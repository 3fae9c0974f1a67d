"""The project, parsed once: what the policies read.

A policy is a function of parsed data that returns violations, a sentence each;
beside the test that holds the project to it stands one that shows it can fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PHASES = ("preflight", "install", "configure", "run")


class _Loader(yaml.SafeLoader):
    """YAML as Ansible reads it, with vaulted values recognisable."""


class Vaulted(str):
    """A value that `ansible-vault` has encrypted."""

    __slots__ = ()


_Loader.add_constructor("!vault", lambda loader, node: Vaulted(loader.construct_scalar(node)))
_Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))


def load(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)


def flatten(tasks: list[dict[str, Any]] | None) -> Iterator[dict[str, Any]]:
    """All tasks, those in blocks too."""
    for task in tasks or []:
        yield task
        for key in ("block", "rescue", "always"):
            yield from flatten(task.get(key))


@dataclass(frozen=True)
class Role:
    """One role as parsed YAML. ``files`` maps a task file's stem to its tasks; ``handlers`` likewise."""

    name: str
    files: dict[str, list[dict[str, Any]]]
    handlers: list[dict[str, Any]] = field(default_factory=list)
    defaults: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] | None = None
    vars: dict[str, Any] = field(default_factory=dict)
    templates: tuple[str, ...] = ()
    entered: frozenset[str] = frozenset()
    """Task files that a play enters by name (`tasks_from`)."""

    @cached_property
    def tasks(self) -> list[dict[str, Any]]:
        return [task for tasks in self.files.values() for task in flatten(tasks)] + list(flatten(self.handlers))

    @cached_property
    def placed(self) -> list[dict[str, Any]]:
        """Entries of every task that places files: `hedgerow_files`, `hedgerow_guarded`."""
        return [
            entry
            for task in self.tasks
            for module in ("hedgerow_files", "hedgerow_guarded")
            for entry in (task.get(module) or {}).get("files", [])
            if isinstance(entry, dict)
        ]


def entered_by_plays(role: str) -> frozenset[str]:
    found = set()
    for path in (ROOT / "playbooks").glob("*.yml"):
        for play in load(path) or []:
            for task in flatten([task for key in ("pre_tasks", "tasks", "post_tasks") for task in play.get(key) or []]):
                for verb in ("import_role", "include_role"):
                    call = task.get(f"ansible.builtin.{verb}") or {}
                    if call.get("name") == role and "tasks_from" in call:
                        found.add(str(call["tasks_from"]).removesuffix(".yml"))
    return frozenset(found)


def read_role(folder: Path) -> Role:
    def optional(name: str, default: Any) -> Any:
        path = folder / name
        return (load(path) if path.is_file() else default) or default

    specs = optional("meta/argument_specs.yml", {})
    templates = folder / "templates"
    return Role(
        name=folder.name,
        files={path.stem: load(path) or [] for path in sorted((folder / "tasks").glob("*.yml"))},
        handlers=optional("handlers/main.yml", []),
        defaults=optional("defaults/main.yml", {}),
        options=(specs.get("argument_specs", {}).get("main") or {}).get("options"),
        vars=optional("vars/main.yml", {}),
        entered=entered_by_plays(folder.name),
        templates=tuple(sorted(str(p.relative_to(templates)) for p in templates.rglob("*") if p.is_file())),
    )


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def roles() -> list[Role]:
    return [read_role(folder) for folder in sorted((ROOT / "roles").iterdir()) if (folder / "tasks").is_dir()]


@pytest.fixture(scope="session")
def plays() -> list[tuple[str, dict[str, Any]]]:
    """(where, play) of every playbook and Molecule scenario; imports of other playbooks are left out."""
    paths = [*(ROOT / "playbooks").glob("*.yml"), *(ROOT / "molecule").glob("*/*.yml")]
    found = []
    for path in sorted(paths):
        document = load(path)
        if isinstance(document, list):
            found += [
                (f"{path.relative_to(ROOT)}: {play.get('name', '?')}", play) for play in document if "hosts" in play
            ]
    return found


@pytest.fixture(scope="session")
def make_role() -> type[Role]:
    """For counter-examples: importlib mode has no module to import `Role` from."""
    return Role


@pytest.fixture(scope="session", name="flatten")
def flatten_fixture() -> Any:
    return flatten
