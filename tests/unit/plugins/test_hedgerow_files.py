from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail

Load = Callable[[str], ModuleType]
Play = Callable[..., dict[str, Any]]


@pytest.fixture
def files(plugin: Load) -> ModuleType:
    return plugin("action/hedgerow_files")


@pytest.mark.parametrize(
    "entry,text",
    [
        ({"dest": "/a"}, "exactly one of"),
        ({"template": "a.j2", "content": "x"}, "exactly one of"),
        ({"template": "a.j2", "ownr": "root"}, "unknown ownr"),
        ({"content": "x"}, "needs dest"),
        ({"link": "/a"}, "needs to"),
    ],
)
def test_an_entry_that_means_nothing_is_refused(files: ModuleType, entry: dict[str, Any], text: str) -> None:
    with pytest.raises(AnsibleActionFail, match=text):
        files.check_entry(entry)


@pytest.mark.parametrize("mode", [644, 0o644, "rw-r--r--", "0888", "", None])
def test_a_mode_that_reads_otherwise_than_it_means_is_refused(files: ModuleType, mode: object) -> None:
    with pytest.raises(AnsibleActionFail, match="octal in quotes"):
        files.parse_mode(mode, where="/a")


def test_an_octal_mode(files: ModuleType) -> None:
    assert files.parse_mode("0640", where="/a") == 0o640


@pytest.mark.parametrize("path", ["etc/a", "/etc/../shadow", ""])
def test_a_path_that_is_not_absolute_is_refused(files: ModuleType, path: str) -> None:
    with pytest.raises(AnsibleActionFail, match="no absolute path"):
        files.absolute(path)


def test_when_must_be_a_truth_value(files: ModuleType) -> None:
    assert not files.wanted({"when": False})
    with pytest.raises(AnsibleActionFail, match="true or false"):
        files.wanted({"when": "no"})


def task(tmp_path: Path, **more: Any) -> dict[str, Any]:
    who = {"owner": str(tmp_path.stat().st_uid), "group": str(tmp_path.stat().st_gid)}
    return {
        "name": "place",
        "vars": {"port": 8443, "folder": str(tmp_path / "etc")},
        "hedgerow_files": {
            "files": [
                {"template": "etc/x.conf.j2", "dest": "{{ folder }}/x.conf", "mode": "0640", **who},
                {"file": "raw.bin", "dest": "{{ folder }}/raw", **who},
                {"content": "never\n", "dest": "{{ folder }}/never", "when": "{{ port == 1 }}", **who},
            ]
        },
    } | more


ROLE = {
    "templates/etc/x.conf.j2": "{% if port %}\nport = {{ port }}\n{% endif %}\nplain\n",
    "files/raw.bin": "{{ port }}",
}


@pytest.mark.slow
def test_through_ansible_renders_writes_and_repeats(tmp_path: Path, play: Play) -> None:
    first = play([task(tmp_path)], **ROLE)["place"]
    assert first["changed"], first
    assert first["changed_paths"] == [str(tmp_path / "etc/x.conf"), str(tmp_path / "etc/raw")]
    assert (tmp_path / "etc/x.conf").read_text() == "port = 8443\nplain\n"
    assert (tmp_path / "etc/raw").read_text() == "{{ port }}"
    again = play([task(tmp_path)], **ROLE)["place"]
    assert not again["changed"]


@pytest.mark.slow
def test_through_ansible_check_and_diff(tmp_path: Path, play: Play) -> None:
    result = play([task(tmp_path)], "--check", "--diff", **ROLE)["place"]
    assert result["changed"]
    assert result["diff"][0]["after"] == "port = 8443\nplain\n"
    assert not (tmp_path / "etc").exists()


@pytest.mark.slow
def test_through_ansible_a_refusal_names_file_and_validator(tmp_path: Path, play: Play) -> None:
    refused = task(tmp_path)
    refused["hedgerow_files"]["files"][0]["validate"] = "grep -q nothing-like-it %s"
    result = play([refused], **ROLE)["place"]
    assert result["failed"]
    assert "grep -q nothing-like-it" in result["msg"]
    assert str(tmp_path / "etc/x.conf") in result["msg"]
    assert not (tmp_path / "etc/raw").exists()


@pytest.mark.slow
def test_through_ansible_an_undefined_variable_stops_before_the_host(tmp_path: Path, play: Play) -> None:
    result = play([task(tmp_path)], **(ROLE | {"templates/etc/x.conf.j2": "{{ nobody_defined_this }}"}))["place"]
    assert result["failed"]
    assert "nobody_defined_this" in str(result)
