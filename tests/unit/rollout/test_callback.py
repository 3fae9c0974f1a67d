"""plugins/callback/hedgerow_rollout.py: forked workers inherit the journal that their playbook has folded."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from hedgerow.rollout import lease
from hedgerow.rollout.events import HostFinished, Opened, Outcome
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy

PLUGIN = Path(__file__).parents[3] / "plugins" / "callback" / "hedgerow_rollout.py"


@pytest.fixture
def callback():
    spec = importlib.util.spec_from_file_location("hedgerow_rollout_callback", PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CallbackModule()


def says(**facts: object) -> SimpleNamespace:
    return SimpleNamespace(result={"ansible_facts": facts})


def test_a_worker_reads_only_what_came_after_its_task_began(
    callback, folder: Path, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="ada", since="now")
    journal = Journal(folder)
    journal.append(Opened(at="t", plan=Plan(release=release, policy=Policy(), waves=[["a"], ["b"]]), by="ada"))
    callback.v2_runner_on_ok(says(rollout={"hosts": ["a", "b"], "folder": str(folder)}))
    callback.v2_playbook_on_task_start(SimpleNamespace(), is_conditional=False)
    journal.append(HostFinished(at="t", host="a", outcome=Outcome.CONFIRMED, reason="well"))
    shared = Journal.shared(folder)
    decoded: list[int] = []
    decode = Journal._decode
    monkeypatch.setattr(
        Journal, "_decode", lambda self, data, **line: decoded.append(data.count(b"\n")) or decode(self, data, **line)
    )
    assert shared.read().hosts["a"].outcome is Outcome.CONFIRMED
    assert decoded == [1]


@pytest.mark.parametrize("facts", [{}, {"rollout": {"folder": None}}, {"rollout": "x"}, {"other": {"folder": "/x"}}])
def test_playbooks_without_a_journal_are_left_alone(callback, facts: dict[str, object]) -> None:
    callback.v2_runner_on_ok(says(**facts))
    callback.v2_playbook_on_task_start(SimpleNamespace(), is_conditional=False)


def test_a_journal_that_cannot_be_read_is_said_by_whoever_needs_it(callback, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_bytes(b'{"event":"no such"}\n')
    callback.v2_runner_on_ok(says(rollout_undo={"folder": str(folder)}))
    callback.v2_playbook_on_task_start(SimpleNamespace(), is_conditional=False)
