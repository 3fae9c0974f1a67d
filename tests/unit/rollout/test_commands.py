from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from hedgerow import inventory as inventories
from hedgerow.commands.rollout import rollout
from hedgerow.errors import ExitCode, UsageError
from hedgerow.rollout import lease, start, store
from hedgerow.rollout.events import HostFinished, HostStarted, Outcome, Stopped
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy

FLEET, NEW, OLD = "meadow-unit", "assistant@1.1.0", "assistant@1.0.0"


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch, fleet_ca):
    hosts = {
        "pi-1": SimpleNamespace(name="pi-1", vars={}),
        "pi-2": SimpleNamespace(name="pi-2", vars={"labels": {"hold": "fan on order"}}),
        "pi-3": SimpleNamespace(name="pi-3", vars={"site": "orchard"}),
    }
    whole = SimpleNamespace(fleet=FLEET, hosts=hosts, pis=list(hosts.values()), vars={})
    part = SimpleNamespace(fleet=FLEET, hosts={"pi-1": hosts["pi-1"]}, pis=[hosts["pi-1"]], vars={})
    monkeypatch.setattr(inventories, "load", lambda path, limit=None: whole if limit is None else part)
    return whole


def run(*arguments: str):
    return CliRunner().invoke(rollout, arguments, standalone_mode=False, catch_exceptions=False)


@pytest.fixture
def journal(fleet, release: Release) -> Journal:
    from datetime import UTC, datetime

    plan = Plan(release=release, policy=Policy(), waves=[["pi-1"], ["pi-3"]])
    return store.begin(store.folder(FLEET), plan, pid=os.getpid(), now=datetime(2026, 11, 21, 12, tzinfo=UTC))


def test_the_plan_is_the_playbooks(fleet, published: str) -> None:
    document = json.loads(run("plan", NEW, "--json").output)
    counts = {key: number for key, number in document["counts"].items() if number}
    assert counts == {"hosts": 2, "waves": 2, "batches": 2, "strata": 2, "held": 1}
    assert document["release"]["sha256"] == published
    narrow = json.loads(run("plan", NEW, "--limit", "pi-1", "--json").output)
    assert (narrow["waves"], narrow["outside_limit"]) == ([["pi-1"]], ["pi-3"])
    text = run("plan", NEW).output
    assert "held: pi-2 (fan on order)" in text
    assert "2 of 2 (100 %)" in text
    assert "spread over board, memory, hat, cooling, storage, site" in text
    assert "site orchard" in text


def test_the_policy_of_the_inventory_counts_unless_a_file_is_named(fleet, published: str, tmp_path: Path) -> None:
    fleet.vars["rollout_policy"] = {"waves": [2]}
    assert len(json.loads(run("plan", NEW, "--json").output)["waves"]) == 1
    file = tmp_path / "policy.yml"
    file.write_text("waves: [1]\n")
    assert len(json.loads(run("plan", NEW, "--policy", str(file), "--json").output)["waves"]) == 2
    file.write_text("waves: [1\n")
    with pytest.raises(UsageError, match="no YAML"):
        run("plan", NEW, "--policy", str(file))


def test_the_schema_is_printed_without_a_bundle(fleet) -> None:
    assert "$defs" in json.loads(run("plan", "--policy-schema").output)
    with pytest.raises(Exception, match="say which bundle"):
        run("plan")


def test_status_says_who_rolls_out_and_how_far(journal: Journal) -> None:
    journal.append(HostStarted(at="2026-11-21T12:00:01Z", host="pi-1", before=OLD))
    document = json.loads(run("status", "--json").output)
    assert document["lease"]["pid"] == os.getpid()
    assert document["counts"] == {"unfinished": 1, "not_started": 1}
    lease.leave(journal.folder.parent, pid=os.getpid())
    text = run("status").output
    assert "nobody is rolling out" in text
    assert "pi-1: unfinished" in text


def test_the_report_says_what_became_of_each_host(journal: Journal) -> None:
    journal.append(HostStarted(at="2026-11-21T12:00:01Z", host="pi-1", before=OLD))
    journal.append(HostFinished(at="2026-11-21T12:00:04.5Z", host="pi-1", outcome=Outcome.LOST, reason="cut off"))
    journal.append(Stopped(at="2026-11-21T12:00:05Z", reason="1 host(s) failed"))
    text = run("report").output
    assert "stopped" in text
    assert "3.5" in text
    document = json.loads(run("report", journal.folder.name, "--json").output)
    assert document["hosts"]["pi-1"]["outcome"] == "lost"
    assert document["hosts"]["pi-3"]["outcome"] is None
    with pytest.raises(UsageError, match="no rollout nine"):
        run("report", "nine")


@pytest.mark.parametrize(
    "events, code",
    [
        ([], ExitCode.PARTIAL),
        ([HostFinished(at="t", host="pi-1", outcome=Outcome.UNREACHABLE, reason="off")], ExitCode.PARTIAL),
        ([Stopped(at="t", reason="budget")], ExitCode.FAILED),
    ],
)
def test_the_exit_code_tells_a_stop_from_what_can_be_gone_on_with(
    journal: Journal, events: list[object], code: ExitCode
) -> None:
    for event in events:
        journal.append(event)
    rollouts = journal.folder.parent
    assert start.exit_code(2, rollouts, {}) == code
    assert start.exit_code(0, rollouts, {}) == ExitCode.OK
    # A run that was refused wrote nothing: the open rollout is somebody else's.
    assert start.exit_code(2, rollouts, store.sizes(rollouts)) == ExitCode.FAILED


def test_a_run_that_never_came_to_a_journal_has_failed(tmp_path: Path) -> None:
    assert start.exit_code(2, tmp_path, {}) == ExitCode.FAILED


def test_values_reach_the_playbook_as_json(tmp_path: Path) -> None:
    line = start.arguments(tmp_path, NEW, policy=tmp_path / "p.yml", limit="pi-1", check=True)
    assert json.loads(line[line.index("-e") + 1]) == {"bundle": NEW, "rollout_policy": str(tmp_path / "p.yml")}
    assert line[-3:] == ["--limit", "pi-1", "--check"]
