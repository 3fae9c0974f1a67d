from __future__ import annotations

import base64
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from hedgerow.device import files
from hedgerow.device.files import PlaceError, place


def entry(path: Path, text: str = "new\n", **more: Any) -> dict[str, Any]:
    return {
        "kind": "file",
        "path": str(path),
        "content": base64.b64encode(text.encode()).decode(),
        "mode": 0o644,
    } | more


def leftovers(folder: Path, *expected: str) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in expected)


def test_writes_what_is_missing_and_nothing_the_second_time(tmp_path: Path) -> None:
    wanted = [
        entry(tmp_path / "deep/er/a", mode=0o600),
        {"kind": "directory", "path": str(tmp_path / "d"), "mode": 0o750},
    ]
    first = place(wanted)
    assert first["changed"]
    assert first["changed_paths"] == [str(tmp_path / "deep/er/a"), str(tmp_path / "d")]
    assert (tmp_path / "deep/er/a").read_text() == "new\n"
    assert stat.S_IMODE((tmp_path / "deep/er/a").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o750
    again = place(wanted)
    assert (again["changed"], again["changed_paths"], again["diff"]) == (False, [], [])


def test_what_was_left_alone_tells_when_it_last_changed(tmp_path: Path) -> None:
    assert place([entry(tmp_path / "a")])["settled"] == {}
    again = place([entry(tmp_path / "a"), entry(tmp_path / "b")])
    assert again["settled"] == {str(tmp_path / "a"): (tmp_path / "a").stat().st_ctime}


def test_an_unchanged_file_keeps_its_inode(tmp_path: Path) -> None:
    place([entry(tmp_path / "a")])
    inode = (tmp_path / "a").stat().st_ino
    place([entry(tmp_path / "a"), entry(tmp_path / "b")])
    assert (tmp_path / "a").stat().st_ino == inode


def test_same_size_other_content_counts(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old\n")
    (tmp_path / "a").chmod(0o644)
    assert place([entry(tmp_path / "a", "new\n")])["changed"]
    assert (tmp_path / "a").read_text() == "new\n"


def test_a_wrong_mode_alone_counts_and_shows_in_the_diff(tmp_path: Path) -> None:
    place([entry(tmp_path / "a")])
    result = place([entry(tmp_path / "a", mode=0o600)], diff=True)
    assert result["diff"][0]["before"] == "mode: 0644\n"
    assert result["diff"][0]["after"] == "mode: 0600\n"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_keeps_the_mode_where_none_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(0o640)
    assert place([entry(tmp_path / "a", mode=None)])["changed"]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_check_mode_writes_nothing_and_says_everything(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old\n")
    result = place(
        [entry(tmp_path / "a", validate="/nonexistent %s"), entry(tmp_path / "b", owner="nobody-by-this-name")],
        check=True,
        diff=True,
    )
    assert result["changed_paths"] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert (result["diff"][0]["before"], result["diff"][0]["after"]) == ("old\n", "new\n")
    assert (tmp_path / "a").read_text() == "old\n"
    assert leftovers(tmp_path, "a") == []


def test_one_refused_file_leaves_all_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old\n")
    with pytest.raises(PlaceError) as caught:
        place([entry(tmp_path / "a", "fine\n"), entry(tmp_path / "b", "bad\n", validate="grep -q good %s")])
    assert caught.value.where == str(tmp_path / "b")
    assert "exit 1" in caught.value.what
    assert (tmp_path / "a").read_text() == "old\n"
    assert leftovers(tmp_path, "a") == []


def test_a_validator_sees_the_neighbours_under_their_names(tmp_path: Path) -> None:
    unit = entry(
        tmp_path / "x.service",
        validate="sh -c 'case $0 in *.service) cat $(dirname $0)/x.conf | grep -q new;; esac' %s",
    )
    assert place([unit, entry(tmp_path / "x.conf")])["changed"]


def test_a_missing_validator_is_a_fault_and_not_a_pass(tmp_path: Path) -> None:
    with pytest.raises(PlaceError, match="did not run"):
        place([entry(tmp_path / "a", validate="/nonexistent/validator %s")])
    assert leftovers(tmp_path) == []


def test_an_unchanged_file_is_not_validated_again(tmp_path: Path) -> None:
    place([entry(tmp_path / "a")])
    assert not place([entry(tmp_path / "a", validate="false %s")])["changed"]


def test_a_full_disk_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("old\n")
    real = os.fsync
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device", "b")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(PlaceError, match="No space left"):
        place([entry(tmp_path / "a"), entry(tmp_path / "b")])
    assert (tmp_path / "a").read_text() == "old\n"
    assert leftovers(tmp_path, "a") == []


def test_force_false_leaves_an_existing_file_alone(tmp_path: Path) -> None:
    assert place([entry(tmp_path / "a", "first\n", replace=False)])["changed"]
    assert not place([entry(tmp_path / "a", "second\n", mode=0o600, replace=False)])["changed"]
    assert (tmp_path / "a").read_text() == "first\n"


def test_links_are_replaced_in_one_step(tmp_path: Path) -> None:
    link = {"kind": "link", "path": str(tmp_path / "l"), "target": "one"}
    assert place([link])["changed"]
    assert not place([link])["changed"]
    assert place([link | {"target": "two"}])["changed"]
    assert str((tmp_path / "l").readlink()) == "two"


def test_a_link_in_a_files_place_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("keep\n")
    (tmp_path / "a").symlink_to("elsewhere")
    assert place([entry(tmp_path / "a")])["changed"]
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "elsewhere").read_text() == "keep\n"


def test_absent_removes_files_and_folders_once(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "f").write_text("")
    gone = [{"kind": "absent", "path": str(tmp_path / name)} for name in ("d", "f")]
    assert place(gone)["changed_paths"] == [str(tmp_path / "d"), str(tmp_path / "f")]
    assert leftovers(tmp_path) == []
    assert not place(gone)["changed"]


@pytest.mark.parametrize("kind, existing", [("file", "directory"), ("directory", "file")])
def test_another_kind_in_the_place_is_never_removed(tmp_path: Path, kind: str, existing: str) -> None:
    place([{"kind": existing, "path": str(tmp_path / "x"), "content": ""}])
    with pytest.raises(PlaceError, match=f"should be a {kind}"):
        place([{"kind": kind, "path": str(tmp_path / "x"), "content": ""}])


def test_an_unknown_owner_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlaceError, match="no user 'nobody-by-this-name'"):
        place([entry(tmp_path / "a", owner="nobody-by-this-name")])
    assert leftovers(tmp_path) == []


def test_binary_and_large_contents_stay_out_of_diffs(tmp_path: Path) -> None:
    binary = entry(tmp_path / "b") | {"content": base64.b64encode(b"\xff\x00").decode()}
    large = entry(tmp_path / "l", "x" * 70_000)
    diffs = place([binary, large], check=True, diff=True)["diff"]
    assert [diff["after"] for diff in diffs] == ["(binary, 2 bytes)\n", "(70000 bytes)\n"]


def test_a_file_is_synced_under_its_new_name_before_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT writes a name's entry with the file; tests/vm/test_boot_files.py pulls the plug."""
    (tmp_path / "a").write_text("old\n")
    synced: list[str] = []
    monkeypatch.setattr(
        files.os, "fsync", lambda descriptor: synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
    )
    place([entry(tmp_path / "a")])
    assert synced[-2:] == [str(tmp_path / "a"), str(tmp_path)]
    assert Path(synced[0]).name.startswith(".a.")


@pytest.mark.parametrize("before, after", [(None, 0o600), (0o600, 0o644), (0o644, 0o600)])
def test_contents_of_a_file_of_its_owner_alone_stay_out_of_diffs(tmp_path: Path, before, after) -> None:
    target = tmp_path / "secret"
    if before is not None:
        target.write_text("canary-old\n")
        target.chmod(before)
    (diff,) = place([entry(target, "canary-new\n", mode=after)], diff=True)["diff"]
    assert "canary" not in str(diff)
    assert diff["before"] != diff["after"]
