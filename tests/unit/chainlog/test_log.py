"""A chained log: what changes or cuts it shows, what a power cut or a full disk leaves is said, writers do not mix."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.chainlog import FIRST, ChainError, ChainLog, Head
from hedgerow.errors import MachineError


class Did(msgspec.Struct, frozen=True):
    what: str


@pytest.fixture
def log(tmp_path: Path) -> ChainLog[Did]:
    return ChainLog(tmp_path / "log.jsonl", Did, name="test log")


def fill(log: ChainLog[Did], count: int = 5) -> list[bytes]:
    for number in range(count):
        log.append(Did(f"step {number}"))
    return log.path.read_bytes().splitlines()


def rewrite(log: ChainLog[Did], lines: list[bytes]) -> None:
    log.path.write_bytes(b"".join(line + b"\n" for line in lines))


def problems(log: ChainLog[Did], *heads: Head) -> str:
    return "; ".join(f"{each.line}: {each.what}" for each in log.verify(*heads).problems)


def test_a_line_holds_the_hash_of_the_line_before_as_sha256sum_counts_it(log):
    first, second, *_ = fill(log)
    assert json.loads(first)["previous"] == FIRST
    assert json.loads(second)["previous"] == hashlib.sha256(first).hexdigest()


def test_what_was_appended_is_read_back_and_holds(log):
    fill(log)
    verdict = log.verify()
    assert (verdict.holds, verdict.entries, verdict.torn, verdict.unfinished_bytes) == (True, 5, 0, 0)
    assert [(each.number, each.value.what) for each in log.entries()][-1] == (5, "step 4")
    assert log.head() == verdict.head == log.anchor()
    assert Head.parse(str(log.head())) == log.head()


def test_a_batch_costs_one_fsync_and_one_more_for_its_anchor(log, monkeypatch):
    fill(log, 1)
    calls: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(fd) or real(fd))
    log.append_all([Did(str(number)) for number in range(500)])
    assert len(calls) <= 3  # the log, the anchor, the anchor's folder
    assert log.check().entries == 501


def test_only_the_owner_reads_it(log):
    fill(log, 1)
    assert [path.stat().st_mode & 0o777 for path in (log.path, log.anchor_path)] == [0o600, 0o600]


@pytest.mark.parametrize("place", range(5))
def test_a_changed_entry_shows(log, place):
    lines = fill(log)
    lines[place] = lines[place].replace(b"step", b"stop")
    rewrite(log, lines)
    assert not log.verify().holds
    with pytest.raises(ChainError, match="was changed"):
        log.check()


@pytest.mark.parametrize("place", range(5))
def test_an_entry_taken_out_shows_the_last_one_by_the_anchor(log, place):
    lines = fill(log)
    del lines[place]
    rewrite(log, lines)
    assert not log.verify().holds


def test_two_entries_that_changed_places_show(log):
    lines = fill(log)
    lines[1], lines[2] = lines[2], lines[1]
    rewrite(log, lines)
    assert "entry 3 stands where 2 belongs" in problems(log)


@pytest.mark.parametrize("line", [b"{}", b'{"what": "nothing"}', b"garbage", b""])
def test_a_line_that_was_put_in_shows(log, line):
    lines = fill(log)
    rewrite(log, [*lines[:2], line, *lines[2:]])
    assert "3: this line is no entry" in problems(log)
    with pytest.raises(ChainError, match="damaged"):
        list(log.entries())


def test_a_cut_end_shows_and_nothing_is_appended_to_it(log):
    rewrite(log, fill(log)[:3])
    assert "the anchor names entry 5, which is not here" in problems(log)
    before = log.path.read_bytes()
    with pytest.raises(ChainError, match="ends with entry 3"):
        log.append(Did("later"))
    assert log.path.read_bytes() == before


def test_a_log_that_is_gone_and_one_without_its_anchor_show(log):
    fill(log)
    anchor = log.anchor_path.read_bytes()
    log.anchor_path.unlink()
    assert "log.jsonl.head is gone" in problems(log)
    with pytest.raises(ChainError, match="is gone"):
        log.append(Did("later"))
    log.anchor_path.write_bytes(anchor)
    log.path.unlink()
    assert "the end was cut off" in problems(log)
    with pytest.raises(ChainError, match="ends with entry 0"):
        log.append(Did("first"))


def test_a_log_written_anew_with_its_anchor_shows_by_a_published_head(log, tmp_path):
    fill(log)
    published = log.head()
    other = ChainLog[Did](tmp_path / "other.jsonl", Did)
    fill(other, 4)
    other.append(Did("invented"))
    other.path.replace(log.path)
    other.anchor_path.replace(log.anchor_path)
    assert log.verify().holds
    assert "published head 5 has another hash" in problems(log, published)


def test_an_anchor_that_cannot_be_read_shows(log):
    fill(log)
    log.anchor_path.write_text("five\n")
    assert "cannot be read" in problems(log)


@given(cut=st.integers(min_value=1, max_value=200), again=st.integers(min_value=0, max_value=200))
def test_a_torn_line_stays_is_counted_and_is_no_entry(tmp_path_factory, cut, again):
    log = ChainLog[Did](tmp_path_factory.mktemp("torn") / "log.jsonl", Did)
    fill(log, 3)
    whole = log.path.read_bytes()
    for length in (cut, again):
        log.path.write_bytes(log.path.read_bytes() + b'{"entry":4,"previous":"' + b"f" * length)
    assert log.verify().holds
    assert log.verify().unfinished_bytes > 0
    assert [each.number for each in log.entries()] == [1, 2, 3]
    log.append(Did("after the power cut"))
    assert log.path.read_bytes().startswith(whole)
    verdict = log.check()
    assert (verdict.entries, verdict.torn, verdict.unfinished_bytes) == (4, 1, 0)
    assert [each.value.what for each in log.entries()][-1] == "after the power cut"


def test_a_torn_line_cannot_be_changed_or_put_in_afterwards(log):
    lines = fill(log, 2)
    log.path.write_bytes(log.path.read_bytes() + b'{"ent')
    log.append(Did("third"))
    torn = log.path.read_bytes().splitlines()
    assert log.verify().torn == 1
    rewrite(log, [*lines, b'{"enx', torn[3]])
    assert "4: the line before this one was changed" in problems(log)
    rewrite(log, [*lines, torn[3]])
    assert not log.verify().holds


def test_a_line_that_lacks_its_end_alone_is_an_entry_after_the_next(log):
    fill(log, 3)
    anchored = log.anchor()
    whole = log.path.read_bytes()
    log.append(Did("not answered for"))
    log.path.write_bytes(log.path.read_bytes().removesuffix(b"\n"))
    log.anchor_path.write_text(f"{anchored}\n")
    assert [each.number for each in log.entries()] == [1, 2, 3]
    log.append(Did("next"))
    assert log.path.read_bytes().startswith(whole)
    assert (log.check().entries, log.check().torn) == (5, 0)


def test_a_second_power_cut_right_after_the_first(log):
    fill(log, 2)
    log.path.write_bytes(log.path.read_bytes() + b'{"ent\n{"en')
    log.append(Did("third"))
    assert (log.check().entries, log.check().torn) == (3, 2)


def test_a_first_line_that_was_torn(log):
    log.path.write_bytes(b'{"ent')
    log.append(Did("first"))
    assert (log.check().entries, log.check().torn) == (1, 1)


def test_lines_from_before_the_chain_are_read_and_covered(tmp_path):
    path = tmp_path / "issued.jsonl"
    path.write_text('{"what": "old"}\n{"wh\n{"what": "old too"}\n')
    log = ChainLog[Did](path, Did, adopt=True)
    assert log.verify().holds
    log.append(Did("new"))
    log.append(Did("newer"))
    assert [(each.number, each.value.what) for each in log.entries()] == [
        (0, "old"), (0, "old too"), (1, "new"), (2, "newer"),
    ]  # fmt: skip
    assert (log.check().entries, log.check().unchained) == (2, 3)
    path.write_text(path.read_text().replace("old too", "old two"))
    assert "4: the line before this one was changed" in problems(log)
    assert not ChainLog[Did](path, Did).verify().holds


class Full:
    """``os.write`` of a disk that has room for ``room`` bytes."""

    def __init__(self, room: int) -> None:
        self.room, self._write = room, os.write

    def __call__(self, descriptor: int, data: bytes) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(descriptor, bytes(data)[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("room", [0, 1, 40, 140])
def test_a_full_disk_refuses_and_leaves_nothing_behind(log, monkeypatch, room):
    fill(log, 2)
    before = log.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", Full(room))
        with pytest.raises(MachineError, match="No space left on device; what it would have said is not done"):
            log.append_all([Did("a"), Did("b")])
    assert log.path.read_bytes() == before
    log.append(Did("again"))
    assert log.check().entries == 3


def test_a_disk_that_loses_what_it_took_refuses(log, monkeypatch):
    fill(log, 2)
    before = log.path.read_bytes()

    def lose(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lose)
        with pytest.raises(MachineError, match="Input/output error"):
            log.append(Did("lost"))
    assert log.path.read_bytes() == before


def test_an_anchor_that_finds_no_room_lags(log, monkeypatch):
    fill(log, 2)
    anchored = log.anchor()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("hedgerow.atomic.write_text", full)
        log.append(Did("third"))
    assert (log.anchor(), log.check().entries) == (anchored, 3)
    log.append(Did("fourth"))
    assert log.anchor() == log.head()


def test_writers_in_threads_and_processes_do_not_mix(log):
    code = (
        "import sys; from pathlib import Path; import msgspec; from hedgerow.chainlog import ChainLog\n"
        "class Did(msgspec.Struct):\n    what: str\n"
        "log = ChainLog(Path(sys.argv[1]), Did)\n"
        "for number in range(40): log.append(Did(f'{sys.argv[2]} {number}'))"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(log.path), name]) for name in ("one", "two")]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: log.append(Did(f"thread {number}")), range(40)))
    assert [each.wait() for each in running] == [0, 0]
    assert log.check().entries == 120
    for who in ("one", "two"):
        numbers = [int(each.value.what.split()[1]) for each in log.entries() if each.value.what.startswith(who)]
        assert numbers == list(range(40))


def test_its_end_is_found_behind_an_entry_larger_than_what_is_read_at_first(log):
    log.append(Did("small"))
    log.append(Did("x" * 300_000))
    log.append(Did("small again"))
    assert log.check().entries == 3
    assert log.head().entries == 3


@pytest.mark.parametrize("text", ["", "1", "1:abc", f"-1:{FIRST}", f"01:{FIRST}", f"1:{FIRST}\n2"])
def test_what_is_no_head_is_said(text):
    with pytest.raises(ValueError, match="NUMBER:SHA256"):
        Head.parse(text)
