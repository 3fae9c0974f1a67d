"""What other logs say comes into the audit log once, with a seal that shows where one of them was changed later."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from hedgerow import audit
from hedgerow.audit.events import Disturbed, Noted, Sealed
from hedgerow.errors import MachineError
from hedgerow.identity.profiles import Profile
from hedgerow.registry.manifest import GoldenText, Message
from hedgerow.rollout import lease
from hedgerow.rollout.events import (
    Closed,
    HostActivated,
    HostFinished,
    Opened,
    OperatorAsked,
    Outcome,
    Request,
    RequestKind,
)
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy

BY = "ada@desk"
AT = "2026-11-21T12:00:00.000Z"


def did(events):
    return [(each.what, each.about) for event in events if isinstance(event, Sealed) for each in event.did]


@pytest.fixture
def journal(fleet_dir):
    folder = fleet_dir / "rollouts" / "20261121T120000Z-assistant-1.1.0"
    lease.take(folder.parent, folder.name, pid=os.getpid(), by=BY, since=AT)
    probe = GoldenText(messages=(Message("user", "What is the capital of France?"),), expect="Paris")
    release = Release(bundle="assistant@1.1.0", sha256="5a" * 32, size_bytes=1, probe=probe)
    made = Journal(folder)
    made.append(Opened(at=AT, plan=Plan(release=release, policy=Policy(), waves=[["pi-1"], ["pi-2"]]), by=BY))
    return made


def test_signings_and_revocations_of_the_fleet_ca(ca, fleet_dir):
    ca.issue_client(Profile.OPERATOR, "ada")
    assert did(audit.collect(fleet_dir, by=BY)) == [("signed a certificate (operator)", ["ada"])]
    assert audit.collect(fleet_dir, by=BY) == []
    ca.revoke("client", "ada", reason="laptop lost", by="ben@desk")
    (found,) = audit.collect(fleet_dir, by=BY)
    assert found.did[0].by == "ben@desk"
    assert (found.did[0].what, found.did[0].about) == ("revoked a client: laptop lost", ["ada"])


def test_approvals_and_activations_of_a_rollout(journal, fleet_dir):
    approval = Request(kind=RequestKind.APPROVE, rollout="r", by="eve", at=AT, wave=2)
    journal.append(HostActivated(at=AT, host="pi-1", seconds=1.0))
    journal.append(HostFinished(at=AT, host="pi-1", outcome=Outcome.CONFIRMED, reason="well"))
    audit.collect(fleet_dir, by=BY)
    journal.append(OperatorAsked(at=AT, request=approval, key="SHA256:abc"))
    journal.append(OperatorAsked(at=AT, request=approval, refused="rule approvals: eve is none"))
    journal.append(HostActivated(at=AT, host="pi-2", seconds=1.0))
    journal.append(HostActivated(at=AT, host="pi-3", seconds=1.0))
    journal.append(Closed(at=AT))
    (found,) = audit.collect(fleet_dir, by="cron@desk")
    assert [(each.by, each.what, each.about) for each in found.did] == [
        ("eve", "approved wave 2, signed by SHA256:abc", []),
        ("eve", "approved wave 2 (refused: rule approvals: eve is none)", []),
        (BY, "activated assistant@1.1.0", ["pi-2", "pi-3"]),
        (BY, "ended the rollout of assistant@1.1.0", []),
    ]


def test_a_line_that_is_still_being_written_waits(journal, fleet_dir):
    audit.collect(fleet_dir, by=BY)
    with journal.path.open("ab") as file:
        file.write(b'{"event":"closed"')
    assert audit.collect(fleet_dir, by=BY) == []
    assert audit.unsealed(fleet_dir) == []


def test_lines_that_nobody_here_knows_are_sealed_all_the_same(fleet_dir):
    (fleet_dir / "rollouts").mkdir(parents=True)
    holds = fleet_dir / "rollouts" / "holds.jsonl"
    holds.write_text('{"kind":"hold","host":"pi-1","by":"ada","at":"t","reason":"fan"}\n["new"]\n{"of":"the future"}\n')
    (found,) = audit.collect(fleet_dir, by=BY)
    assert [(each.what, each.about) for each in found.did] == [("hold: fan", ["pi-1"]), ("a line", [])]
    assert found.bytes == holds.stat().st_size


@pytest.mark.parametrize(
    "change, what",
    [
        (lambda data: data.replace(b"ada", b"eve"), "what it said was changed"),
        (lambda data: data[: data.rfind(b"\n", 0, -1) + 1], "it was cut"),
        (lambda _: None, "it is gone"),
    ],
)
def test_a_sealed_log_that_was_changed_shows_and_is_recorded_for_ever(ca, fleet_dir, change, what):
    for name in ("ada", "ben"):
        ca.issue_client(Profile.OPERATOR, name)
    audit.collect(fleet_dir, by=BY)
    data = change(ca.log.read_bytes())
    ca.log.write_bytes(data) if data is not None else ca.log.unlink()
    assert [(each.source, each.what) for each in audit.unsealed(fleet_dir)] == [("ca/issued.jsonl", what)]
    if data is not None:
        ca.log.write_bytes(data + b'{"name": "cem", "profile": "operator"}\n{"name": "dan", "profile": "operator"}\n')
    kinds = [type(each) for each in audit.collect(fleet_dir, by=BY)]
    assert kinds == [Disturbed]
    assert audit.collect(fleet_dir, by=BY) == []
    assert audit.of_fleet(fleet_dir).check().entries == 2


def test_collecting_at_once_records_once(ca, fleet_dir):
    for number in range(5):
        ca.issue_client(Profile.OPERATOR, f"person-{number}")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: audit.collect(fleet_dir, by=BY), range(8)))
    assert sum(len(each) for each in found) == 1
    assert audit.of_fleet(fleet_dir).check().entries == 1


def test_what_lies_behind_a_link_is_read_once(ca, fleet_dir):
    real = fleet_dir / "ca" / "issuing" / "orchard-12ab"
    real.mkdir(parents=True)
    (real / "issued.jsonl").write_text('{"name": "pi-1", "profile": "device"}\n')
    (real.parent / "orchard").symlink_to(real.name)
    assert [each.source for each in audit.collect(fleet_dir, by=BY)] == ["ca/issuing/orchard-12ab/issued.jsonl"]


def test_a_stage_of_the_registry(fleet_dir, founded_stage):
    (found,) = audit.collect(fleet_dir, by=BY)
    assert found.source == "stages/dev/log"
    assert any(each.what.startswith("roles") for each in found.did)
    assert audit.collect(fleet_dir, by=BY) == []
    entry = next((founded_stage / "registry" / "log").iterdir())
    entry.write_text(entry.read_text().replace("roles", "rules"))
    # Its own signature says so first; what the registry's commands refuse is not sealed anew.
    assert audit.collect(fleet_dir, by=BY) == []


def test_no_fleet_no_log(fleet_dir):
    assert audit.collect(fleet_dir, by=BY) == []
    assert not fleet_dir.exists()


def test_a_log_that_cannot_be_written_refuses(fleet_dir, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    fleet_dir.mkdir(parents=True)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(MachineError, match="No space left"):
        audit.record(fleet_dir, Noted(at=AT, by=BY, kind="note", text="x"))
