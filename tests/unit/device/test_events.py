from __future__ import annotations

import errno
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hedgerow.device import events
from hedgerow.device.events import Event

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def names(folder):
    return [line["event"] for line in events.read(folder)]


def test_oldest_first(tmp_path):
    assert events.read(tmp_path) == []
    events.append(tmp_path, Event(NOW, "activated", "a@1.0.0", "from nothing"))
    events.append(tmp_path, Event(NOW, "confirmed", "a@1.0.0"))
    assert events.read(tmp_path) == [
        {"at": "2026-11-21T12:00:00Z", "event": "activated", "model": "a@1.0.0", "reason": "from nothing"},
        {"at": "2026-11-21T12:00:00Z", "event": "confirmed", "model": "a@1.0.0"},
    ]


def test_a_line_that_a_power_cut_tore_takes_no_other_with_it(tmp_path):
    events.append(tmp_path, Event(NOW, "activated", "a@1.0.0"))
    with (tmp_path / events.FILE_NAME).open("ab") as file:
        file.write(b'{"at": "2026-')
    events.append(tmp_path, Event(NOW, "confirmed", "a@1.0.0"))
    assert names(tmp_path) == ["activated", "confirmed"]


def test_it_never_grows_beyond_two_files(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "MAX_BYTES", 1000)
    for number in range(200):
        events.append(tmp_path, Event(NOW, f"event {number}", "a@1.0.0"))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2 * (1000 + 100)
    assert len(list(tmp_path.iterdir())) == 2
    kept = names(tmp_path)
    assert kept == [f"event {number}" for number in range(200 - len(kept), 200)]


def test_one_endless_reason_does_not_push_the_others_out(tmp_path):
    events.append(tmp_path, Event(NOW, "activated", "a@1.0.0", "x" * 1_000_000))
    assert (tmp_path / events.FILE_NAME).stat().st_size < 2 * events.MAX_REASON + 200
    assert events.read(tmp_path)[0]["reason"].endswith("x…")


def test_since(tmp_path):
    for minutes in range(3):
        events.append(tmp_path, Event(NOW + timedelta(minutes=minutes), f"event {minutes}", "a@1.0.0"))
    found = events.read(tmp_path, since=NOW + timedelta(minutes=1))
    assert [line["event"] for line in found] == ["event 1", "event 2"]


def test_a_folder_that_is_not_there_has_no_events(tmp_path):
    assert events.read(tmp_path / "no") == []


@pytest.fixture
def full_disk(monkeypatch):
    """Writing fails until the older file is gone, as on a disk that it fills; ``short``: half of a line fits."""
    write = events._append

    def arrange(folder: Path, *, short: bool = False) -> None:
        def append(to: Path, line: bytes) -> None:
            if not (folder / events.OLDER).exists():
                write(to, line)
                return
            if short:
                with (to / events.FILE_NAME).open("ab") as file:
                    file.write(line[: len(line) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(events, "_append", append)

    return arrange


@pytest.mark.parametrize("short", [False, True])
def test_on_a_full_disk_the_older_file_gives_way(tmp_path, full_disk, short):
    (tmp_path / events.OLDER).write_text('{"at": "2026-11-20T12:00:00Z", "event": "old", "model": "a@1.0.0"}\n')
    events.append(tmp_path, Event(NOW, "kept", "a@1.0.0"))
    full_disk(tmp_path, short=short)
    events.append(tmp_path, Event(NOW, "reverted", "a@2.0.0", "why"))
    assert names(tmp_path) == ["kept", "reverted"]


def test_where_nothing_can_give_way_the_caller_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(events, "_append", full)
    with pytest.raises(OSError, match="No space"):
        events.append(tmp_path, Event(NOW, "reverted", "a@2.0.0"))


WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from hedgerow.device import events
events.MAX_BYTES = 2000
for number in range(60):
    events.append(Path(sys.argv[1]), events.Event(datetime.now(UTC), f"{sys.argv[2]}-{number}", "a@1.0.0"))
"""


def test_several_writers_tear_no_line_and_turn_the_file_once_a_turn(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, str(number)]) for number in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    lines = [line for path in sorted(tmp_path.iterdir()) for line in path.read_bytes().splitlines()]
    # Were the file turned twice at a time, the older half would be almost empty.
    assert len(lines) == len(names(tmp_path)) > 30
    for writer in range(3):
        kept = [int(name.partition("-")[2]) for name in names(tmp_path) if name.startswith(f"{writer}-")]
        assert kept == sorted(kept)
