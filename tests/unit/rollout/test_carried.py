"""Hosts that went wrong in a stuck rollout, when another bundle takes over from it."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from hedgerow.errors import RefusedError
from hedgerow.registry.manifest import GoldenText, Message
from hedgerow.rollout import carried, holds, late, prepare, store
from hedgerow.rollout import plan as plans
from hedgerow.rollout.events import (
    HostFell,
    HostFinished,
    HostStarted,
    HostUndone,
    Outcome,
    RequestKind,
    State,
)
from hedgerow.rollout.plan import Held, Plan, Release, Target
from hedgerow.rollout.plan_text import remarks
from hedgerow.rollout.policy import Policy, parse
from hedgerow.rollout.policy.budgets import Budgets
from hedgerow.rollout.records import OperatorAsked, Request

FLEET, NEW, STUCK = "meadow-unit", "assistant@1.1.0", "assistant@1.0.9"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ID = "20261121T120000Z-assistant-1.0.9"
HOSTS = list("abcdefgh")
TARGETS = [Target(name=name) for name in HOSTS]
PROBE = GoldenText(messages=(Message("user", "What is the capital of France?"),), expect="Paris")
WRONG = {"b": "lost: no route to host", "c": "fell: failing: model_failed", "d": "environment: undervoltage"}


def stuck(rollouts: Path, *, quarantine_s: float = 0) -> State:
    """A rollout that was cut off in a pause: b was lost, c fell, d was set aside, a is well, nobody is half-way."""
    old = Release(bundle=STUCK, sha256="01" * 32, size_bytes=1, probe=PROBE)
    policy = Policy(quarantine_s=quarantine_s, budgets=Budgets(failures=9, environment=9))
    plan = Plan(release=old, policy=policy, waves=[["a", "b", "c", "d"], HOSTS[4:]])
    journal = store.begin(rollouts, plan, pid=os.getpid(), now=NOON)
    outcomes = {"a": Outcome.CONFIRMED, "b": Outcome.LOST, "c": Outcome.CONFIRMED, "d": Outcome.ENVIRONMENT}
    reasons = {"a": "well", "b": "no route to host", "c": "well", "d": "undervoltage"}
    for host, outcome in outcomes.items():
        journal.append(HostStarted(at="t", host=host, before="assistant@1.0.0"))
        journal.append(HostFinished(at="t", host=host, outcome=outcome, reason=reasons[host]))
    journal.append(HostFell(at="t", host="c", reason="failing: model_failed"))
    journal.append(HostUndone(at="t", host="c", outcome=Outcome.REVERTED, reason="fell; serves the old one"))
    journal.append(HostFinished(at="t", host="e", outcome=Outcome.REFUSED, reason="no space"))
    return journal.read()


@pytest.fixture
def rollouts(published: str) -> Path:
    return store.folder(FLEET)


def planned(now: datetime = NOON, policy: object = None) -> Plan:
    return prepare.plan(FLEET, bundle=NEW, policy=policy, targets=TARGETS, now=now)


def test_who_went_wrong_is_known_and_who_was_only_refused_is_not(tmp_path: Path) -> None:
    assert carried.wrong(stuck(tmp_path)) == WRONG


def test_without_a_quarantine_they_have_their_turn_last_and_the_plan_says_why(rollouts: Path) -> None:
    stuck(rollouts)
    plan = planned()
    assert sorted(plan.hosts) == HOSTS
    assert set("bcd") <= set(plan.waves[-1])
    assert not set("bcd") & {host for wave in plan.waves[:-1] for host in wave}
    assert {each.host: each.reason for each in plan.carried} == WRONG
    assert {each.origin for each in plan.carried} == {ID}
    said = f"went wrong before, in the last wave: b (lost: no route to host, by rollout {ID})"
    assert said in remarks(plan)
    journal = store.begin(rollouts, plan, pid=os.getpid(), now=NOON)
    assert store.read(rollouts, ID)[1].phase == "superseded"
    assert journal.read().plan.carried == plan.carried
    assert holds.read(rollouts) == []


def test_with_one_they_are_in_it_as_after_an_end_in_order(rollouts: Path) -> None:
    stuck(rollouts, quarantine_s=3600)
    plan = planned()
    assert [each.host for each in plan.quarantined] == ["b", "c", "d"]
    assert {each.origin for each in plan.quarantined} == {ID}
    assert (sorted(plan.hosts), plan.carried) == (["a", "e", "f", "g", "h"], [])
    assert holds.read(rollouts) == []  # a plan alone changes nothing
    store.begin(rollouts, plan, pid=os.getpid(), now=NOON)
    assert set(holds.standing(holds.read(rollouts), NOON)) == {"b", "c", "d"}
    assert holds.standing(holds.read(rollouts), NOON + timedelta(hours=1)) == {}


def test_whom_somebody_released_meanwhile_is_not_kept_out_again(rollouts: Path) -> None:
    state = stuck(rollouts, quarantine_s=3600)
    holds.quarantine_failed(rollouts, ID, state, NOON)
    holds.release(rollouts, "b", by="ada", now=NOON)
    plan = planned()
    assert [each.host for each in plan.quarantined] == ["c", "d"]
    assert [each.host for each in plan.carried] == ["b"]
    assert plan.waves[-1][-1] == "b"


def test_a_run_that_is_cut_off_between_quarantine_and_end_comes_to_the_same(
    rollouts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck(rollouts, quarantine_s=3600)
    plan = planned()
    append = store.Journal.append

    def killed(journal: store.Journal, event: object) -> None:
        if isinstance(event, store.Superseded):
            raise KeyboardInterrupt
        append(journal, event)  # type: ignore[arg-type] # passed on as it came

    with monkeypatch.context() as cut:
        cut.setattr(store.Journal, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            store.begin(rollouts, plan, pid=os.getpid(), now=NOON)
    assert store.read(rollouts, ID)[1].phase == "open"
    again = planned()
    assert [each.host for each in again.quarantined] == ["b", "c", "d"]
    store.begin(rollouts, again, pid=os.getpid(), now=NOON)
    assert len(holds.read(rollouts)) == 3


def test_one_that_was_ended_for_this_bundle_is_carried_as_well(rollouts: Path) -> None:
    """``hedgerow rollout supersede`` ends the stuck one first."""
    stuck(rollouts)
    journal = store.reopen(rollouts, ID, pid=os.getpid(), now=NOON)
    asked = Request(rollout=ID, at="t", by="ada", kind=RequestKind.SUPERSEDE, bundle=NEW)
    journal.append(OperatorAsked(at="t", request=asked))
    store.close(journal, pid=os.getpid())
    assert [each.host for each in planned().carried] == ["b", "c", "d"]


def test_one_that_ended_for_itself_or_a_half_way_one_is_not_taken_over(rollouts: Path) -> None:
    stuck(rollouts)
    journal = store.reopen(rollouts, ID, pid=os.getpid(), now=NOON)
    journal.append(HostStarted(at="t", host="f", before="assistant@1.0.0"))
    with pytest.raises(RefusedError, match="no-host-forgotten"):
        store.begin(rollouts, planned(), pid=os.getpid(), now=NOON)
    journal.append(HostFinished(at="t", host="f", outcome=Outcome.CONFIRMED, reason="well"))
    store.close(journal, pid=os.getpid())
    assert planned().carried == []


def test_a_fleet_of_none_but_such_hosts_begins_with_one_of_them() -> None:
    release = Release(bundle=NEW, sha256="5a" * 32, size_bytes=1, probe=PROBE)
    wrong = [Target(name=name, went_wrong="lost", went_wrong_in=ID) for name in "abc"]
    assert [len(wave) for wave in plans.make(wrong, parse({"waves": [1, "100%"]}, where="x"), release).waves] == [1, 2]


def test_they_do_not_come_in_greater_numbers_than_the_last_wave_allows() -> None:
    release = Release(bundle=NEW, sha256="5a" * 32, size_bytes=1, probe=PROBE)
    targets = [Target(name=name, went_wrong="lost" if name in "bcd" else None) for name in HOSTS]
    plan = plans.make(targets, parse({"waves": [1, 2]}, where="x"), release)
    assert (sum(plan.serial), max(plan.serial)) == (8, 2)


def test_a_plan_that_is_gone_on_with_keeps_what_it_knows_of_them(rollouts: Path) -> None:
    stuck(rollouts)
    plan = planned()
    store.begin(rollouts, plan, pid=os.getpid(), now=NOON)
    again = planned()
    assert (again.waves, again.carried) == (plan.waves, plan.carried)
    fewer = msgspec.structs.replace(plan, waves=[[host for host in wave if host != "b"] for wave in plan.waves])
    assert late.extend(plan, fewer).carried == [each for each in plan.carried if each.host != "b"]


def test_a_plan_of_before_has_nobody_carried() -> None:
    release = Release(bundle=NEW, sha256="5a" * 32, size_bytes=1, probe=PROBE)
    document = msgspec.to_builtins(Plan(release=release, policy=Policy(), waves=[["a"]]))
    del document["carried"]
    assert msgspec.convert(document, Plan).carried == []
    assert msgspec.json.decode(msgspec.json.encode(Held("a", "lost", origin=ID)), type=Held).origin == ID
