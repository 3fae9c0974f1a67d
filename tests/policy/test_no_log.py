"""A task that hands a secret to a module says ``no_log``; what a role calls secret, its specification calls so, too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

# Names of variables that hold a secret itself; one that ends in _file or _env names where it lies.
_SECRET = re.compile(r"\b\w*(?:password|passwd|passphrase|secret|api_?key|private_?key|tenant_token|auth_token|_pin)\b")
# Modules of ours that send what they are given over standard input and keep it out of results and diffs.
_QUIET = {"hedgerow_files", "hedgerow_data_partition"}
_NO_SECRETS = {"ansible_ssh_private_key"}


class _Loader(yaml.SafeLoader):
    """YAML of Ansible's; what is vaulted or unsafe is text here."""


_Loader.add_multi_constructor("!", lambda loader, _, node: loader.construct_scalar(node))


def tasks(value: Any) -> Iterator[dict[str, Any]]:
    """Every task, those in blocks and plays too."""
    for each in value if isinstance(value, list) else []:
        if isinstance(each, dict):
            if "name" in each and not {"hosts", "block"} & set(each):
                yield each
            for key in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers"):
                yield from tasks(each.get(key))


def templates(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from templates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from templates(inner)
    elif isinstance(value, str):
        yield from re.findall(r"\{\{(.*?)\}\}", value, re.DOTALL)


def violations(found: dict[str, Any], where: str) -> Iterator[str]:
    module = {name.rpartition(".")[2] for name in found}
    if found.get("no_log") is True or module & _QUIET:
        return
    for text in templates({key: value for key, value in found.items() if key != "name"}):
        for name in set(_SECRET.findall(text)) - _NO_SECRETS:
            yield f"{where}: {found['name']!r} uses {name} without no_log: true"


def test_tasks_with_secrets_say_no_log(root: Path) -> None:
    files = sorted(
        [*root.glob("roles/*/tasks/*.yml"), *root.glob("roles/*/handlers/*.yml"), *root.glob("playbooks/**/*.yml")]
    )
    read = [
        (path, each) for path in files for each in tasks(yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader))
    ]
    assert len(read) > 100
    assert [text for path, each in read for text in violations(each, str(path.relative_to(root)))] == []


def test_specifications_of_secrets_say_no_log(root: Path) -> None:
    for path in sorted(root.glob("roles/*/meta/argument_specs.yml")):
        for entry in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("argument_specs", {}).values():
            for name, option in (entry.get("options") or {}).items():
                if _SECRET.fullmatch(name):
                    assert option.get("no_log") is True, f"{path.relative_to(root)}: {name}"


@pytest.mark.parametrize(
    "task, wrong",
    [
        ({"name": "x", "ansible.builtin.command": "login {{ mender_tenant_token }}"}, True),
        ({"name": "x", "ansible.builtin.command": "login {{ mender_tenant_token }}", "no_log": True}, False),
        ({"name": "x", "ansible.builtin.uri": {"headers": {"a": ["{{ hook_secret }}"]}}}, True),
        ({"name": "x", "hedgerow_files": {"files": [{"content": "{{ hook_secret }}"}]}}, False),
        ({"name": "x", "ansible.builtin.command": "login {{ passphrase_file }}"}, False),
    ],
)
def test_it_can_fail(task: dict[str, Any], wrong: bool) -> None:  # noqa: FBT001 - a case's outcome
    assert bool(list(violations(task, "here"))) is wrong
