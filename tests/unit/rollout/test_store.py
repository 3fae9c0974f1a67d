from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from hedgerow.errors import RefusedError, UsageError
from hedgerow.rollout import lease, store
from hedgerow.rollout.events import HostFinished, HostStarted, Outcome
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy

NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def plan(release: Release) -> Plan:
    return Plan(release=release, policy=Policy(), waves=[["a"], ["b"]])


def begin(rollouts: Path, plan: Plan):
    return store.begin(rollouts, plan, pid=os.getpid(), now=NOON)


def test_a_rollout_is_named_after_its_time_and_bundle(tmp_path: Path, plan: Plan) -> None:
    journal = begin(tmp_path, plan)
    assert journal.folder.name == "20261121T120000Z-assistant-1.1.0"
    assert msgspec.json.decode((journal.folder / "plan.json").read_bytes(), type=Plan) == plan


def test_a_cut_off_rollout_is_gone_on_with(tmp_path: Path, plan: Plan) -> None:
    first = begin(tmp_path, plan)
    first.append(HostFinished(at="t", host="a", outcome=Outcome.CONFIRMED, reason="x"))
    again = begin(tmp_path, plan)
    assert again.folder == first.folder
    assert again.state().count() == {"confirmed": 1, "not_started": 1}


def test_an_ended_one_is_not(tmp_path: Path, plan: Plan) -> None:
    first = begin(tmp_path, plan)
    store.close(first, pid=os.getpid())
    assert lease.read(tmp_path) is None
    second = begin(tmp_path, plan)
    assert second.folder.name == f"{first.folder.name}.2"
    assert store.read(tmp_path)[0] == second.folder.name
    assert store.read(tmp_path, first.folder.name)[1].phase == "partial"


def test_another_bundle_is_another_rollout(tmp_path: Path, plan: Plan) -> None:
    begin(tmp_path, plan)
    other = msgspec.structs.replace(plan.release, bundle="assistant@1.2.0", sha256="00" * 32)
    assert "1.2.0" in begin(tmp_path, msgspec.structs.replace(plan, release=other)).folder.name


def test_a_host_left_half_way_cannot_be_limited_away(tmp_path: Path, plan: Plan) -> None:
    begin(tmp_path, plan).append(HostStarted(at="t", host="a", before=None))
    narrower = msgspec.structs.replace(plan, waves=[["b"]])
    with pytest.raises(RefusedError, match=r"rule no-host-forgotten: .* cut off with a half-way"):
        begin(tmp_path, narrower)


def test_no_rollout_yet(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no rollout yet"):
        store.read(tmp_path)
    with pytest.raises(UsageError, match="no rollout nine"):
        store.read(tmp_path, "nine")
