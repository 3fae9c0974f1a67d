from __future__ import annotations

import hashlib
import json
import os
import tarfile
import threading
from pathlib import Path

import pytest

from hedgerow.errors import MachineError, NetworkError, UsageError
from hedgerow.runtime import install, wheelhouse
from hedgerow.runtime.target import Target

TARGET = Target("3.13", "aarch64")


@pytest.fixture
def built(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The builders replaced by small ones that write real files; what they were asked for, in order."""
    asked: list[str] = []
    wheel = b"a dependency"
    digest = hashlib.sha256(wheel).hexdigest()
    (tree / "requirements/device.txt").write_text(f"dep==1.0 --hash=sha256:{digest} --hash=sha256:{'0' * 64}\n")

    (tree / "requirements/traces.txt").write_text(
        (tree / "requirements/device.txt").read_text() + f"more==2.0 --hash=sha256:{digest}\n"
    )

    def download(requirements: Path, target: Target, destination: Path) -> None:
        names = [line.split()[0] for line in requirements.read_text().splitlines()]
        asked.append(f"download {target.name}: {' '.join(names)}")
        for name in names:
            (destination / f"{name.replace('==', '-')}-py3-none-any.whl").write_bytes(wheel)

    def own(root: Path, destination: Path) -> Path:
        asked.append("own")
        path = destination / "hedgerow-0.1.0-py3-none-any.whl"
        path.write_bytes((root / "src/hedgerow/part/code.py").read_bytes())
        return path

    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    monkeypatch.setattr(wheelhouse, "_pip_download", download)
    monkeypatch.setattr(wheelhouse, "_own_wheel", own)
    return asked


def test_an_unchanged_tree_builds_once_and_a_code_change_downloads_nothing(tree: Path, built: list[str]) -> None:
    first, fresh = wheelhouse.build(TARGET, tree)
    assert fresh
    again, fresh = wheelhouse.build(TARGET, tree)
    assert not fresh
    assert again == first
    (tree / "src/hedgerow/part/code.py").write_text("x = 2\n")
    other, fresh = wheelhouse.build(TARGET, tree)
    assert fresh
    assert other.version != first.version
    assert built == ["download cp313-aarch64: dep==1.0", "own", "own"]


def test_the_archive_is_the_same_bytes_on_every_controller(
    tree: Path, built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = wheelhouse.build(TARGET, tree)
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "elsewhere"))
    second, _ = wheelhouse.build(TARGET, tree)
    assert first.sha256 == second.sha256
    assert first.archive != second.archive
    assert built.count("own") == 2


def test_what_the_controller_packs_the_device_unpacks(tree: Path, built: list[str], tmp_path: Path) -> None:
    house, _ = wheelhouse.build(TARGET, tree)
    assert built
    (tmp_path / "out").mkdir()
    manifest = install.unpack(Path(house.archive), tmp_path / "out", house.version)
    assert manifest["architecture"] == "aarch64"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dep-1.0-py3-none-any.whl",
        "hedgerow-0.1.0-py3-none-any.whl",
        "requirements.txt",
    ]
    lines = (tmp_path / "out/requirements.txt").read_text().splitlines()
    # One sum each, of the very file that is there.
    assert [line.count("--hash=") for line in lines] == [1, 1]
    assert "0" * 64 not in lines[0]


def test_an_extra_is_packed_where_it_is_asked_for(tree: Path, built: list[str], tmp_path: Path) -> None:
    plain, _ = wheelhouse.build(TARGET, tree)
    house, fresh = wheelhouse.build(TARGET, tree, extras=["traces"])
    assert (fresh, house.extras, house.wheels) == (True, ("traces",), plain.wheels + 1)
    assert house.version != plain.version
    (tmp_path / "out").mkdir()
    install.unpack(Path(house.archive), tmp_path / "out", house.version)
    lines = (tmp_path / "out/requirements.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["dep==1.0", "more==2.0", "hedgerow==0.1.0"]
    assert wheelhouse.build(TARGET, tree, extras=["traces"]) == (house, False)
    assert wheelhouse.build(TARGET, tree) == (plain, False)
    assert built == [
        "download cp313-aarch64: dep==1.0",
        "own",
        "download cp313-aarch64: dep==1.0 more==2.0",
        "own",
    ]


def test_without_extras_the_archive_says_nothing_of_them(tree: Path, built: list[str]) -> None:
    house, _ = wheelhouse.build(TARGET, tree)
    assert built
    with tarfile.open(house.archive) as tar:
        manifest = json.loads(tar.extractfile("manifest.json").read())
    assert set(manifest) == {"schema", "version", "python", "architecture", "files"}


def test_a_lock_that_an_older_one_contradicts_is_not_packed(tree: Path, built: list[str]) -> None:
    (tree / "requirements/traces.txt").write_text(f"dep==1.1 --hash=sha256:{'1' * 64}\n")
    with pytest.raises(UsageError, match=r"dep==1\.1"):
        wheelhouse.build(TARGET, tree, extras=["traces"])
    assert built == []


def test_two_at_once_build_once(tree: Path, built: list[str]) -> None:
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(wheelhouse.build(TARGET, tree)[1])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, False, False, True]
    assert built.count("own") == 1


def test_a_failed_build_leaves_nothing_that_counts(
    tree: Path, built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(root: Path, destination: Path) -> Path:
        (destination / "hedgerow-0.1.0-py3-none-any.whl").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(wheelhouse, "_own_wheel", cut)
        with pytest.raises(KeyboardInterrupt):
            wheelhouse.build(TARGET, tree)
    names = [path.name for path in (tmp_path / "var/cache/wheelhouses").iterdir()]
    assert not [name for name in names if name.startswith("0.1.0")]
    assert wheelhouse.build(TARGET, tree)[1]
    assert built


def test_a_tree_that_changes_under_the_build_is_refused(
    tree: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = wheelhouse._own_wheel

    def edit(root: Path, destination: Path) -> Path:
        (root / "src/hedgerow/part/code.py").write_text("x = 3\n")
        return own(root, destination)

    monkeypatch.setattr(wheelhouse, "_own_wheel", edit)
    with pytest.raises(MachineError, match="changed while"):
        wheelhouse.build(TARGET, tree)
    assert built


def test_a_damaged_cache_says_what_to_remove(tree: Path, built: list[str], tmp_path: Path) -> None:
    wheelhouse.build(TARGET, tree)
    next((tmp_path / "var/cache/wheelhouses").glob("deps-*/dep-*.whl")).unlink()
    (tree / "src/hedgerow/part/code.py").write_text("x = 2\n")
    with pytest.raises(MachineError, match="0 wheels for 1 locked"):
        wheelhouse.build(TARGET, tree)
    assert built


@pytest.mark.parametrize(
    "stderr,error",
    [
        ("ERROR: Could not find a version that satisfies the requirement", MachineError),
        ("WARNING: Retrying after connection broken by NewConnectionError", NetworkError),
    ],
)
def test_pips_failure_says_whose_move_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, error: type[Exception]
) -> None:
    monkeypatch.setattr(
        wheelhouse.subprocess,
        "run",
        lambda *_, **__: wheelhouse.subprocess.CompletedProcess([], 1, stdout="", stderr=stderr),
    )
    with pytest.raises(error, match="cp313-aarch64"):
        wheelhouse._pip_download(tmp_path / "r.txt", TARGET, tmp_path)


def test_old_archives_of_the_target_go(tree: Path, built: list[str], tmp_path: Path) -> None:
    other, _ = wheelhouse.build(Target("3.13", "x86_64"), tree)
    houses = []
    for number in range(wheelhouse.KEEP + 2):
        (tree / "src/hedgerow/part/code.py").write_text(f"x = {number}\n# {'y' * number}")
        houses.append(wheelhouse.build(TARGET, tree)[0])
        os.utime(Path(houses[-1].archive).parent, (number, number))
    there = [Path(house.archive).is_file() for house in houses]
    assert there == [False, False] + [True] * wheelhouse.KEEP
    assert Path(other.archive).is_file()
    assert built.count("download cp313-aarch64: dep==1.0") == 1


def test_the_manifest_comes_first(tree: Path, built: list[str]) -> None:
    house, _ = wheelhouse.build(TARGET, tree)
    assert built
    with tarfile.open(house.archive) as tar:
        members = tar.getmembers()
        manifest = json.loads(tar.extractfile(members[0]).read())
    assert members[0].name == "manifest.json"
    assert {member.name for member in members[1:]} == set(manifest["files"])
    assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}
