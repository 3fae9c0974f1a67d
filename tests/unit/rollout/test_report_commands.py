"""``hedgerow rollout report`` and ``simulate`` as they are typed."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from hedgerow import inventory as inventories
from hedgerow.commands.rollout import rollout
from hedgerow.errors import UsageError
from hedgerow.rollout import html, store
from hedgerow.rollout.events import HostFinished, HostJudged, HostStarted, Outcome, Stopped, Waiting, WaveOpened
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy

FLEET = "meadow-unit"
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch, fleet_ca, release: Release) -> Journal:
    whole = SimpleNamespace(fleet=FLEET, hosts={}, pis=[], vars={})
    monkeypatch.setattr(inventories, "load", lambda path, limit=None: whole)
    plan = Plan(release=release, policy=Policy(), waves=[["pi-1"], ["pi-2"]])
    made = store.begin(store.folder(FLEET), plan, pid=os.getpid(), now=datetime(2026, 11, 21, 12, tzinfo=UTC))
    made.append(WaveOpened(at="2026-11-21T12:00:01.000Z", number=1, hosts=["pi-1"]))
    made.append(HostStarted(at="2026-11-21T12:00:02.000Z", host="pi-1", before="assistant@1.0.0"))
    made.append(
        HostJudged(at="2026-11-21T12:00:04.000Z", host="pi-1", verdict="fail", reason=EVIL, looks=2, seconds=2.0)
    )
    made.append(HostFinished(at="2026-11-21T12:00:05.000Z", host="pi-1", outcome=Outcome.REVERTED, reason=EVIL))
    made.append(Stopped(at="2026-11-21T12:00:05.000Z", reason="1 host(s) failed", undo=True))
    return made


def run(*arguments: str):
    return CliRunner().invoke(rollout, arguments, standalone_mode=False, catch_exceptions=False)


class Page(HTMLParser):
    """Tags of a page, and whether what must be closed is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_loads_nothing_and_runs_nothing(journal: Journal, tmp_path: Path) -> None:
    run("report", "--html", str(tmp_path / "report.html"))
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "image", "use"}
    assert not any(name in attributes for _, attributes in page.tags for name in ("src", "href", "onclick", "onload"))
    assert "@import" not in text
    assert EVIL not in text
    assert "&lt;script&gt;" in text


def test_a_page_says_why_first_and_names_who_failed(journal: Journal) -> None:
    text = html.render("r-1", journal.events())
    why, picture, table = text.index("Stopped: 1 host(s) failed."), text.index("<svg"), text.index("<tbody>")
    assert why < picture < table
    assert "✕ pi-1" in text
    assert "✕ pi-2" not in text


def test_a_page_of_a_wait_says_what_for(journal: Journal, release: Release) -> None:
    events = [
        journal.events()[0],
        Waiting(at="2026-11-21T12:00:03.000Z", code="approval", reason="wave 1 needs ada"),
    ]
    text = html.render("r-1", events)
    assert "Waits: wave 1 needs ada." in text
    assert 'class="m-wait"' in text


def test_evidence_is_written_and_verified(journal: Journal, tmp_path: Path) -> None:
    archive = tmp_path / "e.tar"
    run("report", "--evidence", str(archive))
    found = run("report", "--verify", str(archive), "--json")
    document = json.loads(found.output)
    assert (found.return_value, document["problems"], document["phase"]) == (0, [], "stopped")
    data = archive.read_bytes()
    archive.write_bytes(data.replace(b"1 host(s) failed", b"0 host(s) failed"))
    changed = run("report", "--verify", str(archive), "--json")
    assert changed.return_value == 1
    assert {each["where"] for each in json.loads(changed.output)["problems"]} >= {"journal.jsonl", "report.html"}


def test_the_table_is_as_before(journal: Journal) -> None:
    output = run("report").output
    assert "pi-1" in output
    assert "reverted" in output


def test_a_simulation_says_the_same_twice() -> None:
    first, again = (
        json.loads(run("simulate", "--hosts", "30", "--release", "wrong", "--json").output) for _ in range(2)
    )
    assert first == again
    assert first["runs"][0]["stopped_in_wave"] == 1
    assert first["phases"] == {"stopped": 1}


def test_a_simulation_takes_a_policy_and_a_model(tmp_path: Path) -> None:
    policy, model = tmp_path / "policy.yml", tmp_path / "model.yml"
    policy.write_text("waves: [5, '100%']\nbudgets: {failures: 30}\n")
    model.write_text("failing: 1.0\nunreachable: 0\n")
    output = run("simulate", "--hosts", "20", "--policy", str(policy), "--model", str(model), "--json").output
    assert json.loads(output)["runs"][0]["counts"] == {"reverted": 20}
    model.write_text("failling: 1.0\n")
    with pytest.raises(UsageError, match="failling"):
        run("simulate", "--hosts", "20", "--model", str(model))


def test_a_replay_says_where_a_policy_differs(journal: Journal, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yml"
    policy.write_text("budgets: {failures: 3}\n")
    assert "as it was decided then" in run("simulate", "--replay", str(journal.path)).output
    found = json.loads(run("simulate", "--replay", str(journal.folder), "--policy", str(policy), "--json").output)
    assert [each["policy"] for each in found["differences"]] == ["go on: no budget is spent"]
