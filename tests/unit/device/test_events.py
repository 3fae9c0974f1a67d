from __future__ import annotations

from datetime import UTC, datetime

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
