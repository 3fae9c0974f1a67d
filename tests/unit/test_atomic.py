import pytest

from hedgerow import atomic


def names(folder):
    return [entry.name for entry in folder.iterdir()]


def test_write_replaces_content_and_mode(tmp_path):
    path = tmp_path / "new" / "file"
    atomic.write_text(path, "one")
    atomic.write_text(path, "two", mode=0o600)
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(path.parent) == ["file"]


def test_a_failed_write_keeps_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic.write_text(path, "old")

    def full_disk(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        atomic.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_symlink_is_replaced_in_one_step(tmp_path):
    link = tmp_path / "current"
    atomic.symlink("1.0.0", link)
    atomic.symlink("1.1.0", link)
    assert link.readlink().name == "1.1.0"
    assert names(tmp_path) == ["current"]
