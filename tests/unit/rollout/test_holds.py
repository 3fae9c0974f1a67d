from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hedgerow.errors import MachineError
from hedgerow.rollout import holds
from hedgerow.rollout.events import Event, HostFell, HostFinished, HostStarted, HostUndone, Opened, Outcome, replay
from hedgerow.rollout.holds import Standing
from hedgerow.rollout.plan import Plan, Release, Target
from hedgerow.rollout.policy import Policy

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
ID = "20261121T110000Z-assistant-1.1.0"


def standing(rollouts: Path, now: datetime = NOON) -> dict[str, Standing]:
    return holds.standing(holds.read(rollouts), now)


def text(path: Path) -> str:
    return (path / holds.FILE).read_text()


def test_nobody_is_held_before_the_first_line(tmp_path: Path) -> None:
    assert holds.read(tmp_path / "none") == []
    assert holds.release(tmp_path, "a", by="ada", now=NOON) is None
    assert not (tmp_path / holds.FILE).exists()


def test_a_hold_stands_until_its_time_and_a_release_ends_it_before(tmp_path: Path) -> None:
    holds.hold(tmp_path, "a", "fan on order", by="ada@desk", now=NOON, until=LATER)
    holds.hold(tmp_path, "b", "on loan", by="ada@desk", now=NOON)
    assert set(standing(tmp_path)) == {"a", "b"}
    assert set(standing(tmp_path, LATER - timedelta(milliseconds=1))) == {"a", "b"}
    assert set(standing(tmp_path, LATER)) == {"b"}
    ended = holds.release(tmp_path, "b", by="eve", now=NOON, reason="back")
    assert ended is not None
    assert ended.hold is not None
    assert ended.hold.reason == "on loan"
    assert set(standing(tmp_path)) == {"a"}
    assert holds.release(tmp_path, "b", by="eve", now=NOON) is None


def test_a_later_hold_replaces_an_earlier_one_also_where_it_ends_sooner(tmp_path: Path) -> None:
    holds.hold(tmp_path, "a", "long", by="ada", now=NOON)
    holds.hold(tmp_path, "a", "short", by="ada", now=NOON, until=LATER)
    assert standing(tmp_path, LATER) == {}


def test_an_offset_of_any_kind_is_the_same_moment(tmp_path: Path) -> None:
    until = datetime.fromisoformat("2026-11-21T14:00:00+01:00")
    assert holds.hold(tmp_path, "a", "x", by="ada", now=NOON, until=until).until == "2026-11-21T13:00:00.000Z"


def test_one_failure_brings_a_host_into_quarantine_once(tmp_path: Path) -> None:
    first = holds.quarantine(tmp_path, "a", "failing: model_failed", LATER, ID, now=NOON)
    assert first is not None
    assert (first.origin, first.until) == (ID, "2026-11-21T13:00:00.000Z")
    assert holds.quarantine(tmp_path, "a", "failing: model_failed", LATER, ID, now=NOON) is None
    holds.release(tmp_path, "a", by="ada", now=NOON)
    # What has ended is closed once more when its hosts are brought back: the release stands.
    assert holds.quarantine(tmp_path, "a", "failing: model_failed", LATER, ID, now=NOON) is None
    assert standing(tmp_path) == {}
    assert holds.quarantine(tmp_path, "a", "failing again", LATER, "another", now=NOON) is not None


def test_a_release_ends_a_hold_and_a_quarantine(tmp_path: Path) -> None:
    holds.quarantine(tmp_path, "a", "lost", LATER, ID, now=NOON)
    holds.hold(tmp_path, "a", "let it cool", by="ada", now=NOON)
    both = standing(tmp_path)["a"]
    assert both.hold is not None
    assert both.quarantine is not None
    assert holds.release(tmp_path, "a", by="ada", now=NOON) == both
    assert standing(tmp_path) == {}


def test_a_plan_gets_who_is_kept_out_with_reason_end_and_origin(tmp_path: Path) -> None:
    holds.hold(tmp_path, "a", "fan on order", by="ada@desk", now=NOON, until=LATER)
    holds.hold(tmp_path, "c", "on loan", by="ada@desk", now=NOON, until=LATER)
    holds.quarantine(tmp_path, "b", "lost", LATER, ID, now=NOON)
    targets = [Target(name="a"), Target(name="b"), Target(name="c", hold="label"), Target(name="d")]
    a, b, c, d = holds.merge(targets, standing(tmp_path))
    assert (a.hold, a.hold_until) == ("fan on order (ada@desk)", "2026-11-21T13:00:00.000Z")
    assert (b.quarantine, b.quarantined_until, b.quarantined_by) == ("lost", "2026-11-21T13:00:00.000Z", ID)
    # The label goes on after the other hold has ended.
    assert (c.hold, c.hold_until) == ("label; on loan (ada@desk)", None)
    assert d == Target(name="d")


def test_lines_for_people_name_why_who_and_until_when(tmp_path: Path) -> None:
    holds.hold(tmp_path, "a", "fan on order", by="ada@desk", now=NOON)
    holds.quarantine(tmp_path, "b", "lost", LATER, ID, now=NOON)
    assert holds.lines(standing(tmp_path), {"c": "no fan"}) == [
        "held: c (label: no fan)",
        "held: a (fan on order, by ada@desk)",
        f"in quarantine: b (lost, in {ID}, until 2026-11-21T13:00:00.000Z)",
    ]


def test_a_line_that_was_cut_off_counts_for_nobody_and_the_next_takes_its_place(tmp_path: Path) -> None:
    holds.hold(tmp_path, "a", "x", by="ada", now=NOON)
    path = tmp_path / holds.FILE
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind":"release","host":"a"')
    assert set(standing(tmp_path)) == {"a"}
    holds.hold(tmp_path, "b", "y", by="ada", now=NOON)
    assert path.read_bytes().startswith(whole)
    assert len(holds.read(tmp_path)) == 2


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        '{"kind":"holt","host":"a","at":"2026-11-21T12:00:00Z","by":"ada"}',
        '{"kind":"hold","host":"a","at":"2026-11-21T12:00:00Z","by":"ada","until":"soon"}',
        # Without an offset nobody can say when it ends.
        '{"kind":"hold","host":"a","at":"2026-11-21T12:00:00Z","by":"ada","until":"2026-11-21T13:00:00"}',
    ],
)
def test_a_damaged_line_is_said_with_its_number_and_nobody_plans_over_it(tmp_path: Path, line: str) -> None:
    holds.hold(tmp_path, "a", "x", by="ada", now=NOON)
    with (tmp_path / holds.FILE).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(MachineError) as caught:
        holds.read(tmp_path)
    assert str(caught.value.where).endswith("holds.jsonl:2")


OLD = "assistant@1.0.0"


def had(host: str, outcome: Outcome, reason: str = "so") -> list[Event]:
    return [HostStarted(at="t", host=host, before=OLD), HostFinished(at="t", host=host, outcome=outcome, reason=reason)]


def test_who_went_wrong_is_quarantined_when_the_rollout_ends(tmp_path: Path, release: Release) -> None:
    plan = Plan(release=release, policy=Policy(quarantine_s=3600), waves=[list("abcdefg")])
    state = replay(
        [
            Opened(at="t", plan=plan, by="ada"),
            *had("a", Outcome.CONFIRMED),
            *had("b", Outcome.REVERTED, "slower"),
            *had("c", Outcome.LOST),
            *had("d", Outcome.ENVIRONMENT),
            HostFinished(at="t", host="e", outcome=Outcome.REFUSED, reason="no space"),
            HostFinished(at="t", host="f", outcome=Outcome.UNREACHABLE, reason="off"),
            *had("g", Outcome.CONFIRMED),
            HostFell(at="t", host="g", reason="failing: model_failed"),
            HostUndone(at="t", host="g", outcome=Outcome.REVERTED, reason="failing; serves the old one"),
            HostUndone(at="t", host="a", outcome=Outcome.UNDONE, reason="with the others"),
        ]
    )
    assert state is not None
    made = holds.quarantine_failed(tmp_path, ID, state, NOON)
    assert {each.host: each.reason for each in made} == {
        "b": "slower",
        "c": "so",
        "d": "so",
        "g": "failing: model_failed",
    }
    assert set(standing(tmp_path)) == {"b", "c", "d", "g"}
    assert standing(tmp_path, LATER) == {}
    assert holds.quarantine_failed(tmp_path, ID, state, LATER) == []


def test_without_the_key_nobody_is_quarantined(tmp_path: Path, release: Release) -> None:
    plan = Plan(release=release, policy=Policy(), waves=[["b"]])
    state = replay([Opened(at="t", plan=plan, by="ada"), *had("b", Outcome.REVERTED)])
    assert state is not None
    assert holds.quarantine_failed(tmp_path, ID, state, NOON) == []
    assert not (tmp_path / holds.FILE).exists()
