"""What every store does, folder or S3."""

from __future__ import annotations

import hashlib
import random
import threading

import pytest

from hedgerow.errors import RefusedError
from hedgerow.registry.store import Entry


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_what_is_put_is_there(store, tmp_path):
    assert store.get("metadata/x.json") is None
    store.put("metadata/x.json", b"1")
    store.put("metadata/x.json", b"2")
    (tmp_path / "source").write_bytes(b"blob")
    store.put_file("targets/blobs/y", tmp_path / "source")
    assert store.get("metadata/x.json") == b"2"
    assert list(store.list("targets/")) == ["targets/blobs/y"]
    assert list(store.list("")) == ["metadata/x.json", "targets/blobs/y"]
    assert store.size("targets/blobs/y") == 4
    assert store.size("targets/blobs/z") is None


def test_an_empty_file_is_a_file(store):
    store.put("empty", b"")
    assert store.get("empty") == b""
    assert store.size("empty") == 0
    with store.open("empty") as blocks:
        assert b"".join(blocks) == b""
    assert store.read_range("empty", 0, 5) == b""


def test_holds_compares_size_and_content(store):
    store.put("b", b"blob")
    assert store.holds("b", size=4, sha256=sha256(b"blob"))
    assert not store.holds("b", size=5, sha256=sha256(b"blob"))
    assert not store.holds("b", size=4, sha256=sha256(b"glob"))
    assert not store.holds("nothing", size=4, sha256=sha256(b"blob"))


def test_reading_in_blocks_and_ranges(store, tmp_path):
    data = random.Random(1).randbytes(3 * 1024 * 1024 + 17)
    (tmp_path / "source").write_bytes(data)
    store.put_file("targets/big", tmp_path / "source")
    with store.open("targets/big") as blocks:
        read = list(blocks)
    assert b"".join(read) == data
    assert max(map(len, read)) <= 1 << 20
    assert store.read_range("targets/big", 1000, 2000) == data[1000:3000]
    assert store.read_range("targets/big", len(data) - 5, 100) == data[-5:]
    assert store.read_range("targets/big", len(data) + 5, 100) == b""
    assert store.read_range("targets/big", 7, 0) == b""


def test_reading_what_is_not_there(store):
    with pytest.raises(FileNotFoundError), store.open("nothing"):
        pass
    with pytest.raises(FileNotFoundError):
        store.read_range("nothing", 0, 1)


def test_put_new_never_replaces(store):
    assert store.put_new("a/b", b"first") is True
    assert store.put_new("a/b", b"second") is False
    assert store.get("a/b") == b"first"


def test_put_if_replaces_what_it_has_seen(store):
    assert store.put_if("x", b"1", "no such tag") is False
    assert store.get("x") is None
    store.put("x", b"1")
    seen = store.get_tagged("x")
    assert seen.data == b"1"
    assert 0 <= seen.age_s < 60
    assert store.put_if("x", b"2", seen.etag) is True
    assert store.put_if("x", b"3", seen.etag) is False
    assert store.get("x") == b"2"
    assert store.get_tagged("x").etag != seen.etag
    assert store.get_tagged("y") is None


@pytest.mark.parametrize("how", ["put_new", "put_if"])
def test_of_many_at_the_same_time_one_wins(store, how):
    if how == "put_if":
        store.put("race", b"start")
        etag = store.get_tagged("race").etag
    won = []
    barrier = threading.Barrier(6)

    def write(number: int) -> None:
        barrier.wait()
        data = f"writer {number}".encode()
        if store.put_new("race", data) if how == "put_new" else store.put_if("race", data, etag):
            won.append(data)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.get("race")] == won


def test_delete_is_done_once_or_twice(store):
    store.put("x", b"1")
    store.delete("x")
    store.delete("x")
    assert store.get("x") is None
    assert list(store.list("")) == []


def test_entries_have_sizes_and_ages(store):
    for number in range(12):
        store.put(f"targets/packs/{number:02}", b"x" * number)
    found = list(store.entries("targets/packs/"))
    assert [(each.path, each.size) for each in found] == [(f"targets/packs/{n:02}", n) for n in range(12)]
    assert all(isinstance(each, Entry) and 0 <= each.age_s < 60 for each in found)


def test_one_publisher_at_a_time(store):
    with store.lock(), pytest.raises(RefusedError, match="another publisher"), another(store).lock():
        pass
    with another(store).lock():
        store.put("x", b"1")


def test_the_stores_own_files_are_not_listed(store):
    with store.lock():
        store.put("x", b"1")
        assert list(store.list("")) == ["x"]
    assert list(store.list("")) == ["x"]


def another(store):
    """The same place, seen by another publisher."""
    return type(store)(store.root) if hasattr(store, "root") else type(store)(store._bucket.settings)
