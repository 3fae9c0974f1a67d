"""No secret stands in an inventory, a role's defaults or a playbook; vaulted values and paths of files may."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

_NAME = re.compile(r"(?i)(^|_)(password|passwd|passphrase|secret|token|api_?key|private_?key)$")
_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b|\$6\$[^$]+\$"
)
_TEMPLATE = re.compile(r"^\s*\{\{.*\}\}\s*$", re.DOTALL)


def secrets(value: Any, where: str = "") -> Iterator[str]:
    """Where a plain secret stands below ``value``; the secret itself is not repeated."""
    if isinstance(value, dict):
        for key, inner in value.items():
            plain = isinstance(inner, str | int) and not isinstance(inner, bool) and not _encrypted(inner)
            if _NAME.search(str(key)) and plain and inner != "" and not _TEMPLATE.match(str(inner)):
                yield f"{where}.{key} is a plain secret by its name; encrypt it with ansible-vault or SOPS"
            else:
                yield from secrets(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from secrets(inner, f"{where}[{number}]")
    elif isinstance(value, str) and _VALUE.search(value):
        yield f"{where} is a secret by its form"


def _encrypted(value: Any) -> bool:
    """By ansible-vault, or by SOPS."""
    return type(value).__name__ == "Vaulted" or str(value).startswith("ENC[AES256_GCM,")


def documents(root: Path) -> Iterator[tuple[str, Any]]:
    class Loader(yaml.SafeLoader):
        pass

    class Vaulted(str):
        __slots__ = ()

    Loader.add_constructor("!vault", lambda loader, node: Vaulted(loader.construct_scalar(node)))
    Loader.add_multi_constructor("!", lambda loader, _, node: loader.construct_scalar(node))
    folders = [root / "inventory", *root.glob("molecule/*"), *root.glob("roles/*/defaults"), *root.glob("roles/*/vars")]
    for folder in [*folders, root / "playbooks"]:
        for path in sorted({*folder.rglob("*.yml"), *folder.rglob("*.yaml")}):
            for document in yaml.load_all(path.read_text(encoding="utf-8"), Loader=Loader):
                yield str(path.relative_to(root)), document


def test_there_is_none(root: Path) -> None:
    read = list(documents(root))
    assert any(name.startswith("inventory/emulated") for name, _ in read)
    assert [found for name, document in read for found in secrets(document, name)] == []


@pytest.mark.parametrize(
    "document",
    [
        {"ansible_become_password": "hunter2"},
        {"all": {"vars": {"mender_token": "abc"}}},
        {"list": [{"api_key": 12345}]},
        {"note": "-----BEGIN OPENSSH PRIVATE KEY-----\nx"},
        {"hash": "$6$salt$x"},
    ],
)
def test_it_can_fail(document: Any) -> None:
    found = list(secrets(document, "x"))
    assert len(found) == 1
    assert "hunter2" not in found[0]


@pytest.mark.parametrize(
    "document",
    [
        {"ansible_ssh_private_key_file": "/path"},
        {"become_password": "{{ lookup('env', 'X') }}"},
        {"password": ""},
        {"vault_password": "ENC[AES256_GCM,data:aGk=,iv:eA==,tag:eA==,type:str]"},
        {"use_token": True},
    ],
)
def test_paths_lookups_and_switches_are_none(document: Any) -> None:
    assert list(secrets(document, "x")) == []
