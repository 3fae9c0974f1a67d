from __future__ import annotations

import hashlib
import os

import pytest

from hedgerow.errors import MachineError, RefusedError
from hedgerow.registry.store import FolderStore


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "store")


def test_what_is_put_is_there(store, tmp_path):
    assert store.get("metadata/x.json") is None
    store.put("metadata/x.json", b"1")
    store.put("metadata/x.json", b"2")
    source = tmp_path / "source"
    source.write_bytes(b"blob")
    store.put_file("targets/blobs/y", source)
    assert store.get("metadata/x.json") == b"2"
    assert list(store.list("targets/")) == ["targets/blobs/y"]
    assert list(store.list("")) == ["metadata/x.json", "targets/blobs/y"]
    assert (store.root / "targets/blobs/y").stat().st_mode & 0o777 == 0o644


def test_holds_reads_and_does_not_believe(store):
    store.put("b", b"blob")
    sha256 = hashlib.sha256(b"blob").hexdigest()
    assert store.holds("b", size=4, sha256=sha256)
    (store.root / "b").write_bytes(b"glob")
    assert not store.holds("b", size=4, sha256=sha256)
    assert not store.holds("nothing", size=4, sha256=sha256)


def test_a_source_that_is_missing_leaves_nothing(store, tmp_path):
    with pytest.raises(MachineError):
        store.put_file("targets/blobs/y", tmp_path / "nowhere")
    assert list(store.list("")) == []
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_one_publisher_at_a_time(store):
    another = FolderStore(store.root)
    with store.lock(), pytest.raises(RefusedError, match=f"process {os.getpid()}"), another.lock():
        pass
    with store.lock():
        pass


def test_what_a_killed_publisher_left_is_removed(store):
    store.put("metadata/x.json", b"1")
    for name in ("targets/blobs/.new-abc", "metadata/.timestamp.json.abc"):
        (store.root / name).parent.mkdir(parents=True, exist_ok=True)
        (store.root / name).write_bytes(b"half")
    with store.lock():
        assert sorted(path.name for path in store.root.rglob("*") if path.is_file()) == [".lock", "x.json"]
