from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import click
import msgspec
import pytest
from click.testing import CliRunner

from hedgerow import inventory as inventories
from hedgerow.commands import rollout_steering
from hedgerow.commands.rollout import rollout
from hedgerow.errors import ExitCode, RefusedError, UsageError
from hedgerow.rollout import decide, lease, requests, start, store
from hedgerow.rollout.events import HostFinished, HostStarted, Outcome, Request, RequestKind, Resumed, Stopped
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
    whole = SimpleNamespace(fleet=FLEET, registry_stage="production", hosts=hosts, pis=list(hosts.values()), vars={})
    part = SimpleNamespace(
        fleet=FLEET, registry_stage="production", hosts={"pi-1": hosts["pi-1"]}, pis=[hosts["pi-1"]], vars={}
    )
    monkeypatch.setattr(inventories, "load", lambda path, limit=None: whole if limit is None else part)
    return whole


def run(*arguments: str):
    return CliRunner().invoke(rollout, arguments, standalone_mode=False, catch_exceptions=False)


@pytest.fixture
def journal(fleet, release: Release) -> Journal:
    from datetime import UTC, datetime

    plan = Plan(release=release, policy=Policy(), waves=[["pi-1"], ["pi-3"]])
    return store.begin(store.folder(FLEET), plan, pid=os.getpid(), now=datetime(2026, 11, 21, 12, tzinfo=UTC))


def test_the_plan_is_the_playbooks(fleet, published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")  # tables wrap at the width of whatever runs the tests
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


def test_windows_that_never_open_are_said_before_anybody_waits_for_them(fleet, published: str) -> None:
    fleet.vars["rollout_policy"] = {"windows": {"activate": [{"from": "22:00", "to": "22:15"}]}}
    with pytest.raises(UsageError, match=r"as long as a turn may take \(1020 s"):
        run("plan", NEW)
    fleet.vars["rollout_policy"]["activate_within_s"] = 600
    assert run("plan", NEW).exit_code == 0


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


# -- steering ------------------------------------------------------------------------------


def test_status_before_the_first_rollout(fleet) -> None:
    nothing = {"id": None, "phase": None, "lease": None, "kept_out": {}}
    assert json.loads(run("status", "--json").output) == nothing
    assert "hedgerow rollout start NAME@VERSION" in run("status").output


class Engine(threading.Thread):
    """Takes requests as a run does."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.02):
            requests.take(Journal(self._journal.folder), {})

    def end(self) -> None:
        self._ended.set()
        self.join()


@pytest.fixture
def engine(journal: Journal):
    made = Engine(journal)
    made.start()
    yield made
    made.end()


def test_a_pause_says_what_to_type_next_and_a_resumption_ends_it(journal: Journal, engine: Engine) -> None:
    text = run("pause", "--reason", "lunch").output
    assert "paused" in text
    assert "next: hedgerow rollout resume" in text
    assert str(journal.read().paused).endswith(": lunch")
    assert "goes on" in run("resume").output
    assert journal.read().paused is None


def test_an_emergency_stop_is_one_command(journal: Journal, engine: Engine) -> None:
    began = time.monotonic()
    assert "its hosts go back" in run("abort", "--reason", "smoke").output
    assert time.monotonic() - began < 5
    assert "emergency stop by" in str(journal.read().stopped)
    with pytest.raises(RefusedError, match="rule stopped"):
        run("pause")


def test_what_nobody_waits_for_is_refused(journal: Journal, engine: Engine) -> None:
    with pytest.raises(RefusedError, match="rule approvals: wave 1 waits for no approval"):
        run("approve")


def test_a_run_that_is_busy_takes_a_request_later(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_steering, "ANSWER_WITHIN_S", 0.2)
    assert "the run takes it when the command on its present hosts ends" in run("abort").output
    assert len(requests.pending(journal.folder, 0)) == 1


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines of ansible-playbook that would have run."""
    lines: list[list[str]] = []
    monkeypatch.setattr(start, "_play", lambda words: lines.append(words) or 0)
    return lines


def test_a_run_that_was_cut_off_is_resumed_with_its_own_policy_and_limit(
    journal: Journal, played: list[list[str]]
) -> None:
    narrow = msgspec.structs.replace(journal.read().plan, outside_limit=["pi-9"])
    journal.append(Resumed(at="t", plan=narrow, by="ada"))
    lease.leave(journal.folder.parent, pid=os.getpid())
    assert run("resume").return_value == 0
    [line] = played
    assert line[2] == "playbooks/rollout.yml"
    values = json.loads(line[line.index("-e") + 1])
    assert (values["bundle"], values["rollout_policy"]["confirm_within_s"]) == (NEW, 600)
    assert line[line.index("--limit") + 1] == "pis:!pi-9"


def test_a_pause_that_outlived_its_run_ends_with_it(journal: Journal, engine: Engine, played: list[list[str]]) -> None:
    run("pause")
    engine.end()
    lease.leave(journal.folder.parent, pid=os.getpid())
    run("resume")
    assert [each.kind for each in requests.pending(journal.folder, 0)] == [RequestKind.PAUSE, RequestKind.RESUME]
    assert played


def test_a_pause_that_no_run_lived_to_take_ends_as_well(journal: Journal, played: list[list[str]]) -> None:
    asked = Request(kind=RequestKind.PAUSE, rollout=journal.folder.name, by="ada", at="t")
    requests.add(journal.folder, asked)
    lease.leave(journal.folder.parent, pid=os.getpid())
    run("resume")
    assert [each.kind for each in requests.pending(journal.folder, 0)] == [RequestKind.PAUSE, RequestKind.RESUME]


@pytest.mark.parametrize("command", ["abort", "rollback"])
def test_without_a_run_the_way_back_is_a_playbook(journal: Journal, played: list[list[str]], command: str) -> None:
    lease.leave(journal.folder.parent, pid=os.getpid())
    assert run(command).return_value == 0
    [line] = played
    assert line[2:] == ["playbooks/rollback.yml", "-e", json.dumps({"rollout": journal.folder.name})]
    assert [str(each.kind) for each in requests.pending(journal.folder, 0)] == [command]


def test_nothing_to_pause_to_resume_or_to_stop(journal: Journal, played: list[list[str]]) -> None:
    for host in ("pi-1", "pi-3"):
        journal.append(HostFinished(at="t", host=host, outcome=Outcome.CONFIRMED, reason="well"))
    store.close(journal, pid=os.getpid())
    for command in ("pause", "resume", "abort"):
        with pytest.raises(UsageError) as caught:
            run(command)
        assert caught.value.next_step is not None
    assert played == []


def test_a_stuck_rollout_is_ended_before_another_takes_over(journal: Journal, played: list[list[str]]) -> None:
    journal.append(HostStarted(at="t", host="pi-1", before=OLD))
    lease.leave(journal.folder.parent, pid=os.getpid())
    run("supersede", "assistant@1.2.0")
    assert [line[2] for line in played] == ["playbooks/rollback.yml", "playbooks/rollout.yml"]
    # What the first of them does follows from this: hosts in their turn go back, the others stay as they are.
    [asked] = requests.pending(journal.folder, 0)
    assert (asked.kind, asked.bundle) == (RequestKind.SUPERSEDE, "assistant@1.2.0")
    lease.take(journal.folder.parent, journal.folder.name, pid=os.getpid(), by="ada", since="now")
    requests.take(journal, {})
    assert decide.to_undo(journal.read()) == ["pi-1"]


def test_watching_a_rollout_that_has_ended_prints_what_happened(journal: Journal) -> None:
    journal.append(HostStarted(at="2026-11-21T12:00:01Z", host="pi-1", before=OLD))
    store.close(journal, pid=os.getpid())
    text = run("watch", "--from-start").output
    assert "pi-1: its turn begins" in text
    assert "ended in order" in text


# -- holds ---------------------------------------------------------------------------------


def test_a_held_host_is_left_out_of_the_plan_and_told_of_until_it_is_released(fleet, published: str) -> None:
    said = run("hold", "pi-1", "--reason", "fan on order", "--until", "2126-11-21T12:00:00+01:00").output
    assert said.startswith("pi-1: rollouts leave it out, until 2126-11-21T11:00:00.000Z")
    document = json.loads(run("plan", NEW, "--json").output)
    assert document["waves"] == [["pi-3"]]
    assert [each["host"] for each in document["held"]] == ["pi-1", "pi-2"]
    assert document["held"][0]["until"] == "2126-11-21T11:00:00.000Z"
    status = run("status").output
    assert "held: pi-2 (label: fan on order)" in status
    assert "held: pi-1 (fan on order, by " in status
    assert json.loads(run("status", "--json").output)["kept_out"]["pi-1"]["hold"]["reason"] == "fan on order"
    assert "pi-1: released from its hold (fan on order)" in run("release", "pi-1").output
    assert json.loads(run("plan", NEW, "--json").output)["counts"]["hosts"] == 2


@pytest.mark.parametrize(
    "words, says",
    [
        (["hold", "pi-9", "--reason", "x"], "the inventory has no host pi-9"),
        (["hold", "pi-1", "--reason", "x", "--until", "2006-11-21T12:00:00Z"], "is over"),
        (["hold", "pi-1", "--reason", "x", "--until", "2126-11-21T12:00:00"], "has no offset"),
        (["hold", "pi-1", "--reason", "x", "--until", "tomorrow"], "is no time"),
        (["hold", "pi-1"], "reason"),
        (["release", "pi-1"], "pi-1 is not held"),
        (["release", "pi-2"], "the inventory holds pi-2: fan on order"),
        (["release", "pi-9"], "the inventory has no host pi-9"),
    ],
)
def test_wrong_use_of_hold_and_release_is_said(fleet, words: list[str], says: str) -> None:
    with pytest.raises((UsageError, click.UsageError), match=says):
        run(*words)


def test_an_application_is_fetched_ahead_beside_the_model_that_is_named(
    fleet, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[list[str]] = []

    def play(words: list[str]) -> int:
        played.append(words)
        return 0

    monkeypatch.setattr(start, "_play", play)
    run("stage", "kiosk@1.0.0", "--model", OLD)
    (words,) = played
    said = json.loads(words[words.index("-e") + 1])
    assert (said["bundle"], said["model"], said["stage_ahead"]) == ("kiosk@1.0.0", OLD, "only")
