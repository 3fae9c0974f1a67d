"""The state machine alone: every cut of every command, worked out on a device in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.device.transition import Pending, Recovery, overdue, recovery

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def pending(**changes):
    fields = {
        "name": "assistant",
        "from_": "1.0.0",
        "to": "1.1.0",
        "since": NOW,
        "deadline": NOW + timedelta(seconds=600),
        "boot_id": "this boot",
        "deadline_boottime_s": 1600.0,
    }
    return Pending(**(fields | changes))


@pytest.mark.parametrize(
    "note, current, ends",
    [
        (None, "1.0.0", Recovery.NOTHING),
        (None, None, Recovery.NOTHING),
        (pending(), "1.0.0", Recovery.FORGET),
        (pending(), "1.1.0", Recovery.FINISH),
        (pending(from_=None), None, Recovery.FORGET),
        (pending(from_=None), "1.1.0", Recovery.FINISH),
        (pending(reverting="slow"), "1.1.0", Recovery.REVERT),
        (pending(reverting="slow"), "1.0.0", Recovery.REVERT),
        (pending(reverting=""), "1.1.0", Recovery.REVERT),
    ],
)
def test_how_a_cut_ends(note, current, ends):
    assert recovery(note, current) is ends


def test_the_server_finds_the_deadline_in_the_note():
    note = pending(previous="0.9.0", reverting="slow")
    document = msgspec.json.decode(msgspec.json.encode(note))
    assert (document["from"], document["to"], document["deadline"]) == ("1.0.0", "1.1.0", "2026-11-21T12:10:00Z")
    assert msgspec.json.decode(msgspec.json.encode(note), type=Pending) == note


@dataclass(frozen=True)
class Disk:
    """What a cut leaves: the note and two links."""

    note: Pending | None
    current: str | None
    previous: str | None


def recovered(disk):
    """What ``Activation._recover`` does, on values."""
    ends = recovery(disk.note, disk.current)
    if ends is Recovery.FORGET:
        return replace(disk, note=None)
    if ends is Recovery.FINISH:
        return replace(disk, previous=disk.note.from_)
    if ends is Recovery.REVERT:
        return Disk(None, disk.note.from_, disk.note.previous)
    return disk


versions = st.sampled_from([None, "1.0.0", "1.1.0", "1.2.0"])


@given(versions, versions, st.sampled_from(["1.3.0", "1.4.0"]))
def test_every_cut_of_an_activation_is_all_or_nothing(current, previous, to):
    before = Disk(None, current, previous)
    note = pending(from_=current, to=to, previous=previous)
    after = Disk(note, to, current)
    for cut in (before, replace(before, note=note), replace(before, note=note, current=to), after):
        assert recovered(cut) in {before, after}
        assert recovered(recovered(cut)) == recovered(cut)


@given(versions, versions, st.sampled_from(["1.3.0", "1.4.0"]))
def test_every_cut_of_a_revert_ends_where_it_began_or_where_it_was_going(back, previous, current):
    waiting = Disk(pending(from_=back, to=current, previous=previous), current, back)
    note = msgspec.structs.replace(waiting.note, reverting="slow")
    after = Disk(None, back, previous)
    cuts = (Disk(note, current, back), Disk(note, back, back), Disk(note, back, previous), after)
    assert recovered(waiting) == waiting
    for cut in cuts:
        assert recovered(cut) == after


def late(note=None, *, now=NOW, boottime_s=1000.0, boot_id="this boot"):
    return overdue(note or pending(), now=now, boottime_s=boottime_s, boot_id=boot_id)


def test_within_one_boot_nobody_can_set_the_clock():
    assert not late(boottime_s=1599.9)
    assert late(boottime_s=1600.0)
    assert not late(now=NOW + timedelta(days=365), boottime_s=1599.9)
    assert late(now=NOW - timedelta(days=365), boottime_s=1600.0)


def test_after_a_reboot_the_wall_clock_decides():
    after = NOW + timedelta(seconds=600)
    assert late(now=after, boottime_s=10, boot_id="the next boot")
    assert not late(now=after - timedelta(seconds=1), boottime_s=10, boot_id="the next boot")


def test_after_a_reboot_a_clock_that_is_behind_cannot_stretch_it_for_ever():
    behind = NOW - timedelta(days=365)
    assert not late(now=behind, boottime_s=599, boot_id="the next boot")
    assert late(now=behind, boottime_s=600, boot_id="the next boot")
