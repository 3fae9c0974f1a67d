from __future__ import annotations

import threading

import pytest
import server_support as support
from server_support import Script, served

from hedgerow.server import memory
from hedgerow.server.models import Slot


def test_closed_when_the_last_holder_lets_go_and_not_before() -> None:
    script = Script([])
    model = served(script)
    with model.hold():
        with model.hold():
            model.retire()
        assert not model.wait_closed(0.01)
    assert model.wait_closed(support.PATIENCE_S)
    assert script.closed.is_set()


def test_closing_runs_on_a_thread_of_its_own() -> None:
    where: list[str] = []
    script = Script([])
    script.close = lambda: where.append(threading.current_thread().name)
    model = served(script)
    model.retire()
    assert model.wait_closed(support.PATIENCE_S)
    assert where == ["close-assistant"]


def test_what_the_allocator_kept_goes_back_to_the_system(monkeypatch) -> None:
    happened: list[str] = []
    monkeypatch.setattr(memory, "trim", lambda: happened.append("trimmed"))
    script = Script([])
    script.close = lambda: happened.append("closed")
    model = served(script)
    model.retire()
    assert model.wait_closed(support.PATIENCE_S)
    assert happened == ["closed", "trimmed"]


def test_closed_once_whoever_retires_it() -> None:
    closed: list[int] = []
    script = Script([])
    script.close = lambda: closed.append(1)
    model = served(script)
    for _ in range(3):
        model.retire()
        with model.hold():
            pass
    assert model.wait_closed(support.PATIENCE_S)
    assert closed == [1]


def test_a_slot_serves_the_old_version_until_the_switch() -> None:
    old, new, newer = (served(Script([]), version=version) for version in ("1.0.0", "2.0.0", "3.0.0"))
    slot = Slot("assistant", old)
    slot.prepare(new)
    assert slot.serving is old
    slot.prepare(newer)
    assert new.wait_closed(support.PATIENCE_S)
    assert slot.switch() is old
    assert (slot.serving, slot.prepared) == (newer, None)
    assert old.wait_closed(support.PATIENCE_S)
    with pytest.raises(LookupError):
        slot.switch()


def test_what_is_discarded_gives_its_memory_back() -> None:
    old, new = served(Script([])), served(Script([]), version="2.0.0")
    slot = Slot("assistant", old, new)
    slot.discard()
    slot.discard()
    assert new.wait_closed(support.PATIENCE_S)
    assert slot.serving is old
    assert slot.empty() == [old]
    assert old.wait_closed(support.PATIENCE_S)
