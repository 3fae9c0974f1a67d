from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from hedgerow.runtime import install
from hedgerow.runtime.install import InstallError

WHEEL = b"wheel"


def archive(path: Path, version: str = "1.0+a", **changes: Any) -> str:
    """Write an archive with one wheel, return its sum; ``changes``: files (manifest), extra (members), first (name)."""
    files = changes.get("files", {"a.whl": hashlib.sha256(WHEEL).hexdigest()})
    members = [(changes.get("first", "manifest.json"), json.dumps({"version": version, "files": files}).encode())]
    members += [("a.whl", WHEEL), *changes.get("extra", [])]
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Programs are recorded, not run; `-m venv` makes its folder, `fail` in a command fails it."""
    commands: list[list[str]] = []

    def record(command: list[str]) -> None:
        commands.append(command)
        if "venv" in command:
            Path(command[-1], "bin").mkdir(parents=True)
        if any("broken" in word for word in command):
            raise InstallError("import broken")

    (tmp_path / "pip").mkdir()
    (tmp_path / "pip/pip-25.1-py3-none-any.whl").touch()
    monkeypatch.setattr(install, "_run", record)
    monkeypatch.setattr(install, "PIP_WHEELS", tmp_path / "pip")
    return commands


def put(tmp_path: Path, version: str, *, imports: str = "json", keep: int = 2) -> dict[str, Any]:
    path = tmp_path / "archive.tar"
    digest = archive(path, version)
    return install.install(
        archive=str(path), sha256=digest, version=version, root=str(tmp_path / "rt"), smoke_imports=[imports], keep=keep
    )


def current(tmp_path: Path) -> str:
    return (tmp_path / "rt/current").readlink().name


def test_current_moves_after_the_smoke_test(tmp_path: Path, run: list[list[str]]) -> None:
    assert put(tmp_path, "1.0+a") == {"changed": True, "previous": None, "removed": []}
    assert current(tmp_path) == "1.0+a"
    assert not (tmp_path / "archive.tar").exists()
    kinds = ["venv", "install", "import json\n", "--help"]
    assert [kind in command for kind, command in zip(kinds, run, strict=True)] == [True] * 4
    pip = run[1]
    assert {"--no-index", "--require-hashes", "--no-deps"} <= set(pip)


def test_the_same_version_again_changes_nothing(tmp_path: Path, run: list[list[str]]) -> None:
    put(tmp_path, "1.0+a")
    before = len(run)
    assert put(tmp_path, "1.0+a") == {"changed": False, "previous": "1.0+a", "removed": []}
    assert len(run) == before


def test_a_runtime_that_does_not_start_never_becomes_current(tmp_path: Path, run: list[list[str]]) -> None:
    put(tmp_path, "1.0+a")
    with pytest.raises(InstallError, match="broken"):
        put(tmp_path, "1.0+b", imports="broken")
    assert current(tmp_path) == "1.0+a"
    assert not (tmp_path / "rt/1.0+b").exists()
    assert run


def test_an_unfinished_folder_is_made_anew(tmp_path: Path, run: list[list[str]]) -> None:
    (tmp_path / "rt/1.0+a/half").mkdir(parents=True)
    put(tmp_path, "1.0+a")
    assert not (tmp_path / "rt/1.0+a/half").exists()
    assert run


def test_the_way_back_needs_no_archive(tmp_path: Path, run: list[list[str]]) -> None:
    put(tmp_path, "1.0+a")
    put(tmp_path, "1.0+b")
    before = len(run)
    assert put(tmp_path, "1.0+a") == {"changed": True, "previous": "1.0+b", "removed": []}
    assert len(run) == before


@pytest.mark.parametrize(
    "keep,left", [(1, ["3", "4"]), (2, ["3", "4"]), (3, ["2", "3", "4"]), (9, ["1", "2", "3", "4"])]
)
def test_old_runtimes_go_and_the_previous_one_stays(
    tmp_path: Path, run: list[list[str]], keep: int, left: list[str]
) -> None:
    for number, version in enumerate(("1", "2", "3")):
        put(tmp_path, version, keep=9)
        os.utime(tmp_path / "rt" / version / install.MARKER, (number, number))
    put(tmp_path, "4", keep=keep)
    assert sorted(entry.name for entry in (tmp_path / "rt").iterdir() if not entry.is_symlink()) == left
    assert run


def test_another_archive_than_the_one_built_is_refused(tmp_path: Path, run: list[list[str]]) -> None:
    archive(tmp_path / "archive.tar")
    with pytest.raises(InstallError, match="sha256 differs"):
        install.install(
            archive=str(tmp_path / "archive.tar"),
            sha256="0" * 64,
            version="1.0+a",
            root=str(tmp_path / "rt"),
            smoke_imports=[],
            keep=2,
        )
    assert run == []
    assert not (tmp_path / "rt").exists()


@pytest.mark.parametrize(
    "changes,text",
    [
        ({"first": "other.json"}, "does not begin with a manifest"),
        ({"files": {"a.whl": "0" * 64}}, "a.whl differs"),
        ({"files": {"a.whl": hashlib.sha256(WHEEL).hexdigest(), "b.whl": "0" * 64}}, "lacks b.whl"),
        ({"extra": [("../../evil", b"x")]}, "which its manifest does not name"),
        ({"extra": [("a.whl", b"twice")]}, "which its manifest does not name"),
        ({"version": "2.0"}, "holds runtime 2.0, not 1.0"),
    ],
)
def test_a_manipulated_archive_is_refused(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    archive(tmp_path / "x.tar", **({"version": "1.0"} | changes))
    (tmp_path / "out").mkdir()
    with pytest.raises(InstallError, match=text):
        install.unpack(tmp_path / "x.tar", tmp_path / "out", "1.0")
    assert not (tmp_path / "evil").exists()


def test_a_host_without_pips_wheel_is_told_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "PIP_WHEELS", tmp_path)
    with pytest.raises(InstallError) as caught:
        install._pip()
    assert "python3-pip-whl" in str(caught.value.next_step)


def links(tmp_path: Path) -> dict[str, str]:
    return {
        name: (tmp_path / "rt" / name).readlink().name for name in install.LINKS if (tmp_path / "rt" / name).exists()
    }


def stage(tmp_path: Path, version: str, *, imports: str = "json") -> dict[str, Any]:
    path = tmp_path / "archive.tar"
    digest = archive(path, version)
    return install.stage(
        archive=str(path), sha256=digest, version=version, root=str(tmp_path / "rt"), smoke_imports=[imports]
    )


def test_an_installation_moves_all_links_and_keeps_the_way_back(tmp_path: Path, run: list[list[str]]) -> None:
    put(tmp_path, "1")
    assert links(tmp_path) == {"current": "1", "confirmed": "1"}
    put(tmp_path, "2")
    assert links(tmp_path) == {"current": "2", "confirmed": "2", "previous": "1"}
    assert run


def test_a_link_that_stayed_behind_is_a_change(tmp_path: Path, run: list[list[str]]) -> None:
    put(tmp_path, "1")
    (tmp_path / "rt/confirmed").unlink()
    assert put(tmp_path, "1")["changed"] is True
    assert links(tmp_path) == {"current": "1", "confirmed": "1"}
    assert run


def test_staging_proves_and_switches_nothing(tmp_path: Path, run: list[list[str]]) -> None:
    for version in ("1", "2"):
        put(tmp_path, version)
    put(tmp_path, "0", keep=9)
    put(tmp_path, "2", keep=9)  # from 0, so that 1 is nobody's
    before = links(tmp_path)
    assert stage(tmp_path, "3") == {"changed": True, "removed": ["1"]}
    assert links(tmp_path) == before == {"current": "2", "confirmed": "2", "previous": "0"}
    assert "import json\n" in run[-2]
    commands = len(run)
    assert stage(tmp_path, "3")["changed"] is False
    assert len(run) == commands
    with pytest.raises(InstallError, match="broken"):
        stage(tmp_path, "4", imports="broken")
    assert links(tmp_path) == before
    assert not (tmp_path / "rt/4").exists()
