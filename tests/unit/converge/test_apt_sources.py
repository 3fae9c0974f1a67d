from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from hedgerow.converge import apt_sources
from hedgerow.errors import UsageError


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/mirror.asc").write_text("key")
    return {
        "name": "mirror",
        "uris": ["https://mirror.example/rpi"],
        "suites": ["trixie"],
        "components": ["main"],
        "key": "keys/mirror.asc",
    }


def test_a_source_comes_with_its_key_before_it(source: dict[str, Any], tmp_path: Path) -> None:
    key, file = apt_sources.files([source], str(tmp_path), [])
    assert key == {"file": str(tmp_path / "keys/mirror.asc"), "dest": "/etc/apt/keyrings/hedgerow-mirror.asc"}
    assert file["dest"] == "/etc/apt/sources.list.d/hedgerow-mirror.sources"
    assert "Signed-By: /etc/apt/keyrings/hedgerow-mirror.asc\n" in file["content"]
    assert "Architectures" not in file["content"]


def test_apt_reads_it(source: dict[str, Any], tmp_path: Path) -> None:
    (_, file) = apt_sources.files([source], str(tmp_path), [])
    staged = tmp_path / "hedgerow-mirror.sources"
    staged.write_text(file["content"])
    command = [word.replace("%s", str(staged)) for word in file["validate"].split()]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    staged.write_text(file["content"].replace("Suites: trixie\n", ""))
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_a_source_that_left_the_list_goes_with_its_key_and_no_other(tmp_path: Path) -> None:
    found = apt_sources.files([], str(tmp_path), ["debian.sources", "raspi.sources", "hedgerow-old.sources"])
    assert [entry["absent"] for entry in found] == [
        "/etc/apt/sources.list.d/hedgerow-old.sources",
        *(f"/etc/apt/keyrings/hedgerow-old{suffix}" for suffix in (".asc", ".gpg", ".pgp")),
    ]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"uris": ["https://me:secret@mirror.example/"]}, "password"),
        ({"uris": ["mirror.example"]}, "no URL"),
        ({"name": "../x"}, "no name"),
        ({"key": "keys/none.asc"}, "is not there"),
        ({"key": "keys"}, "is not there"),
    ],
)
def test_what_cannot_be_is_refused(source: dict[str, Any], tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        apt_sources.files([source | change], str(tmp_path), [])
