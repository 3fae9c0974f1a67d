from __future__ import annotations

from pathlib import Path

from hedgerow.lifecycle import record

OLD, NEW = "10000000a1b2c3d4", "10000000ffffffff"
WHO = {"time": "2026-11-21T12:00:00Z", "host": "pi-1", "by": "ada@desk"}
LEFT = record.Decommissioned(**WHO, serial=OLD, reason="sold", wiped=True)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    record.append(tmp_path / "fleet", LEFT)
    assert record.read(tmp_path / "fleet") == [LEFT]
    assert record.read(tmp_path / "nowhere") == []


def test_a_board_left_until_it_comes_back() -> None:
    assert record.departure([], OLD) is None
    assert record.departure([LEFT], OLD) == LEFT
    assert record.departure([LEFT], NEW) is None
    assert record.departure([LEFT, record.Adopted(**WHO, serial=OLD)], OLD) is None
    assert record.departure([LEFT, record.Replaced(**WHO, old_serial=NEW, new_serial=OLD)], OLD) is None


def test_an_exchange_is_begun_once() -> None:
    begun = [record.Replacing(**WHO, old_serial=OLD, new_serial=NEW)]
    assert record.is_replacing(begun, "pi-1", OLD, NEW)
    assert not record.is_replacing(begun, "pi-1", NEW, OLD)
    assert not record.is_replacing(begun, "pi-2", OLD, NEW)
