"""Archives that say what was changed where."""

from __future__ import annotations

import io
import json
import os
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hedgerow.errors import RefusedError, UsageError
from hedgerow.rollout import evidence, evidence_seal, store
from hedgerow.rollout.events import HostFinished, HostJudged, HostStarted, Outcome
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy

FLEET = "meadow-unit"


@pytest.fixture
def journal(published: str, release: Release) -> Journal:
    import msgspec

    release = msgspec.structs.replace(release, sha256=published)
    plan = Plan(release=release, policy=Policy(), waves=[["pi-1"], ["pi-2"]])
    made = store.begin(store.folder(FLEET), plan, pid=os.getpid(), now=datetime(2026, 11, 21, 12, tzinfo=UTC))
    at = "2026-11-21T12:00:01.000Z"
    made.append(HostStarted(at=at, host="pi-1", before="assistant@1.0.0"))
    judged = {"p50_ms": 100.0}, {"p50_ms": 250.0}
    made.append(
        HostJudged(
            at=at, host="pi-1", verdict="fail", reason="<slower>", looks=3, seconds=2, before=judged[0], after=judged[1]
        )
    )
    made.append(HostFinished(at=at, host="pi-1", outcome=Outcome.REVERTED, reason="gate says fail: <slower>"))
    store.close(made, pid=os.getpid())
    return made


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {each.name: archive.extractfile(each).read() for each in archive}


def rewrite(path: Path, entries: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_the_same_rollout_gives_the_same_bytes_and_verifies(journal: Journal, tmp_path: Path) -> None:
    path = evidence.collect(journal.folder)
    again = evidence.collect(journal.folder, tmp_path / "again.tar")
    assert path.read_bytes() == again.read_bytes()
    statement, problems = evidence.verify(path, evidence_seal.public_key(FLEET))
    assert problems == []
    assert statement["subject"][0]["digest"]["sha256"] == journal.read().plan.release.sha256
    assert statement["predicate"]["phase"] == "partial"


def test_it_has_each_host_with_its_figures_and_the_bundles_provenance(journal: Journal) -> None:
    entries = contents(evidence.collect(journal.folder))
    host = json.loads(entries["hosts/pi-1.json"])
    assert (host["verdict"], host["metrics_before"], host["metrics_after"]) == (
        "fail",
        {"p50_ms": 100.0},
        {"p50_ms": 250.0},
    )
    assert [line["event"] for line in host["journal"]] == ["host_started", "host_judged", "host_finished"]
    assert json.loads(entries["bundle/manifest.json"])["provenance"]["builder"] == "test"
    assert json.loads(entries["waves/002.json"])["counts"] == {"not started": 1}
    assert b"&lt;slower&gt;" in entries["report.html"]


def test_a_bundle_that_the_registry_no_longer_has_does_not_cost_the_rest(journal: Journal) -> None:
    import shutil

    from hedgerow import paths

    shutil.rmtree(paths.stage_dir(FLEET, "production"))
    entries = contents(evidence.collect(journal.folder))
    assert "bundle/manifest.json" not in entries
    assert "why" in json.loads(entries["bundle/missing.json"])


def test_it_says_what_was_changed_removed_and_added(journal: Journal) -> None:
    path = evidence.collect(journal.folder)
    entries = contents(path)
    entries["hosts/pi-1.json"] = entries["hosts/pi-1.json"].replace(b"fail", b"pass")
    del entries["waves/002.json"]
    entries["hosts/pi-9.json"] = b"{}"
    rewrite(path, entries)
    _, problems = evidence.verify(path, evidence_seal.public_key(FLEET))
    assert [(each.where, each.what.split(":")[0]) for each in problems] == [
        ("hosts/pi-1.json", "was changed"),
        ("hosts/pi-9.json", "was added"),
        ("waves/002.json", "is missing"),
    ]


def test_whoever_signs_anew_is_not_the_fleet(journal: Journal) -> None:
    path = evidence.collect(journal.folder)
    key = evidence_seal.public_key(FLEET)
    entries = contents(path)
    statement, _ = evidence.verify(path, key)
    entries[evidence_seal.SIGNED] = evidence_seal.signed(statement, evidence_seal.signer("another"))
    rewrite(path, entries)
    with pytest.raises(RefusedError, match="signed-evidence"):
        evidence.verify(path, key)


def test_a_key_that_others_can_read_signs_nothing(journal: Journal) -> None:
    from hedgerow import paths

    evidence.collect(journal.folder)
    private = paths.fleet_dir(FLEET) / "signing" / evidence_seal.KEY
    assert private.stat().st_mode & 0o777 == 0o600
    private.chmod(0o644)
    with pytest.raises(UsageError, match="read by others"):
        evidence.collect(journal.folder)


def test_what_is_no_archive_is_said(tmp_path: Path, journal: Journal) -> None:
    evidence.collect(journal.folder)
    path = tmp_path / "x.tar"
    path.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="no archive"):
        evidence.verify(path, evidence_seal.public_key(FLEET))
