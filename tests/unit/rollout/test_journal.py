from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from hedgerow.errors import RefusedError
from hedgerow.rollout import lease
from hedgerow.rollout.events import Closed, HostFinished, HostStarted, Opened, Outcome, Resumed, Stopped, replay
from hedgerow.rollout.journal import Journal, JournalError, timestamp
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy


@pytest.fixture
def plan(release: Release) -> Plan:
    return Plan(release=release, policy=Policy(), waves=[["a"], ["b"], ["c"]])


@pytest.fixture
def journal(folder: Path, plan: Plan) -> Journal:
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="ada@desk", since="now")
    journal = Journal(folder)
    journal.append(Opened(at="t0", plan=plan, by="ada@desk"))
    return journal


def test_what_is_appended_is_read_back(journal: Journal, plan: Plan) -> None:
    journal.append(HostStarted(at="t1", host="a", before="assistant@1.0.0", baseline=["fan_slow"]))
    journal.append(HostFinished(at="t2", host="a", outcome=Outcome.CONFIRMED, reason="fine"))
    state = Journal(journal.folder).state()
    assert state is not None
    assert state.plan == plan
    assert state.hosts["a"].before == "assistant@1.0.0"
    assert state.hosts["a"].outcome is Outcome.CONFIRMED
    assert state.count() == {"confirmed": 1, "not_started": 2}
    assert state.phase == "open"


def test_phases(journal: Journal) -> None:
    journal.append(HostFinished(at="t", host="a", outcome=Outcome.REVERTED, reason="slow"))
    journal.append(HostFinished(at="t", host="b", outcome=Outcome.UNREACHABLE, reason="off"))
    state = journal.state()
    assert state is not None
    assert (state.tally().failed, state.tally().unreachable) == (1, 1)
    journal.append(Closed(at="t"))
    assert journal.state().phase == "partial"
    journal.append(Stopped(at="t", reason="budget"))
    assert journal.state().phase == "stopped"


def test_resuming_keeps_what_is_known_and_admits_late_joiners(journal: Journal, plan: Plan) -> None:
    journal.append(HostFinished(at="t", host="a", outcome=Outcome.ALREADY, reason="x"))
    wider = msgspec.structs.replace(plan, waves=[*plan.waves, ["late"]])
    journal.append(Resumed(at="t", plan=wider, by="bob@desk"))
    state = journal.state()
    assert state.count() == {"already": 1, "not_started": 3}
    assert state.by == "bob@desk"


def test_complete_only_with_every_host(journal: Journal) -> None:
    for host, outcome in [("a", Outcome.ALREADY), ("b", Outcome.CONFIRMED)]:
        journal.append(HostFinished(at="t", host=host, outcome=outcome, reason="x"))
        assert journal.state().phase == "open"
    journal.append(HostFinished(at="t", host="c", outcome=Outcome.CONFIRMED, reason="x"))
    assert journal.state().phase == "complete"


def test_a_journal_cut_anywhere_is_read_up_to_its_last_whole_line(journal: Journal) -> None:
    journal.append(HostStarted(at="t1", host="a", before=None))
    journal.append(HostFinished(at="t2", host="a", outcome=Outcome.CONFIRMED, reason="fine"))
    whole = journal.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(len(whole)):
        journal.path.write_bytes(whole[:cut])
        kept = journal.events()
        expected = sum(sum(map(len, lines[: number + 1])) <= cut for number in range(len(lines)))
        assert len(kept) == expected


def test_a_torn_line_is_gone_after_the_next_append(journal: Journal) -> None:
    with journal.path.open("ab") as file:
        file.write(b'{"event":"host_star')
    journal.append(HostStarted(at="t1", host="b", before=None))
    assert [type(event).__name__ for event in journal.events()] == ["Opened", "HostStarted"]


def test_damage_in_the_middle_is_said_with_its_line(journal: Journal) -> None:
    journal.append(Closed(at="t"))
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(lines[0] + b'{"event":"no such"}\n' + lines[1])
    with pytest.raises(JournalError) as caught:
        journal.events()
    assert str(caught.value.where).endswith("journal.jsonl:2")


def test_no_journal_says_nothing(folder: Path) -> None:
    assert Journal(folder).state() is None


def test_a_journal_without_a_beginning_is_refused() -> None:
    with pytest.raises(ValueError, match="not with Opened"):
        replay([Closed(at="t")])


def _append(folder: Path, pid: int, host: str) -> None:
    Journal(folder, pid=pid).append(HostStarted(at="t", host=host, before=None))


def test_workers_of_the_holder_append_side_by_side(journal: Journal) -> None:
    hosts = ["a", "b", "c"] * 20
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(_append, [journal.folder] * 60, [os.getpid()] * 60, hosts))
    assert sorted(event.host for event in journal.events()[1:]) == sorted(hosts)


def test_without_the_lease_nothing_is_appended(journal: Journal) -> None:
    before = journal.path.read_bytes()
    with pytest.raises(RefusedError, match=r"rule one-writer.*ada@desk"):
        Journal(journal.folder, pid=1).append(Closed(at="t"))
    lease.leave(journal.folder.parent, pid=os.getpid())
    with pytest.raises(RefusedError, match="held by nobody"):
        journal.append(Closed(at="t"))
    assert journal.path.read_bytes() == before


def test_a_second_controller_is_told_who_rolls_out(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        lease.take(folder.parent, "first", pid=other.pid, by="bob@shed", since="noon")
        with pytest.raises(RefusedError, match=rf"bob@shed is rolling out since noon \(process {other.pid}"):
            lease.take(folder.parent, "second", pid=os.getpid(), by="ada@desk", since="now")
        other.kill()
    lease.take(folder.parent, "second", pid=os.getpid(), by="ada@desk", since="now")
    assert lease.read(folder.parent).by == "ada@desk"


def test_a_recycled_process_number_is_not_the_holder(folder: Path) -> None:
    taken = lease.take(folder.parent, "first", pid=os.getpid(), by="ada", since="now")
    assert lease.alive(taken)
    assert not lease.alive(msgspec.structs.replace(taken, started=taken.started - 1))
    assert not lease.alive(msgspec.structs.replace(taken, boot="another boot"))
    assert lease.alive(msgspec.structs.replace(taken, machine="elsewhere", boot="another boot"))


def test_only_the_holder_gives_a_lease_back(folder: Path) -> None:
    lease.take(folder.parent, "first", pid=os.getpid(), by="ada", since="now")
    lease.leave(folder.parent, pid=1)
    assert lease.read(folder.parent) is not None
    lease.leave(folder.parent, pid=os.getpid())
    assert lease.read(folder.parent) is None


def test_timestamps_are_utc_with_milliseconds() -> None:
    assert timestamp(datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)) == "2026-11-21T12:00:00.123Z"
