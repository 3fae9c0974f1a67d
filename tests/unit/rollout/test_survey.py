"""What every host would go back to is known, or said not to be, before the first is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from hedgerow.rollout import decide, lease, survey
from hedgerow.rollout.events import HostFinished, Opened, Outcome, Surveyed
from hedgerow.rollout.gate.samples import Look
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy

OLD, OLD_HASH = "assistant@1.0.0", "01" * 32
OLD_VARIANT = "02" * 32


def look(version: str | None, sha256: str | None = OLD_HASH, *, reached: bool = True) -> Look:
    return Look(at=0, reached=reached, status="ok" if reached else None, version=version, sha256=sha256)


@pytest.fixture
def run(folder: Path, release: Release):
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="ada", since="now")
    journal = Journal(folder)
    said: list[str] = []

    def call(looks: dict[str, Look]) -> tuple[Journal, list[str]]:
        if journal.state() is None:
            plan = Plan(release=release, policy=Policy(), waves=[[host] for host in looks])
            journal.append(Opened(at="t", plan=plan, by="ada"))
        vouched = {OLD: frozenset({OLD_HASH, OLD_VARIANT})}.get
        survey.survey(journal, lambda host: lambda: looks[host], vouched, said.append)
        return journal, said

    return call


def test_hosts_are_sorted_by_what_they_can_go_back_to(run, release: Release) -> None:
    journal, said = run(
        {
            "a": look(OLD),
            "b": look(None, None),
            "c": look("assistant@0.5.0"),
            "d": look(None, reached=False),
            "e": look(release.bundle, release.sha256),
        }
    )
    found = journal.events()[-1]
    assert isinstance(found, Surveyed)
    assert (found.known, found.first, found.unknown, found.silent, found.refused) == (2, ["b"], ["c"], ["d"], {})
    assert said[0] == "the way back: 2 host(s) serve a version that the registry vouches for"
    assert "  first installation, nothing to go back to: b" in said
    assert decide.stopped(journal.read()) is None


def test_what_is_not_what_it_says_it_is_stops_the_rollout_before_anything_is_touched(run) -> None:
    journal, _ = run({"a": look(OLD), "b": look(OLD, "66" * 32)})
    state = journal.read()
    assert state.hosts["b"].outcome is Outcome.REFUSED
    assert "rule way-back" in state.hosts["b"].reason
    assert state.stopped is not None
    assert not state.undo


def test_it_is_asked_once(run) -> None:
    journal, _ = run({"a": look(OLD)})
    before = journal.path.read_bytes()
    run({"a": look(OLD, "66" * 32)})
    assert journal.path.read_bytes() == before


def test_a_rollout_that_has_begun_is_not_surveyed(run, folder: Path, release: Release) -> None:
    journal = Journal(folder)
    journal.append(Opened(at="t", plan=Plan(release=release, policy=Policy(), waves=[["a"]]), by="ada"))
    journal.append(HostFinished(at="t", host="a", outcome=Outcome.CONFIRMED, reason="well"))
    assert run({"a": look(OLD, "66" * 32)})[0].read().stopped is None


def test_the_fleets_own_registry_is_asked(published: str) -> None:
    vouched = survey.registry("meadow-unit")
    assert vouched("assistant@1.1.0") == {published}
    assert vouched("assistant@9.9.9") is None
    assert survey.registry("nowhere")("assistant@1.1.0") is None
    assert survey.registry("meadow-unit", "dev")("assistant@1.1.0") is None


def test_a_variant_of_the_version_is_as_good_as_the_version(run, release: Release) -> None:
    several = msgspec.structs.replace(release, builds=["0a" * 32, "0b" * 32])
    found = survey.judge(
        {"a": look(OLD, OLD_VARIANT), "b": look(release.bundle, "0b" * 32), "c": look(release.bundle, "0c" * 32)},
        several,
        {OLD: frozenset({OLD_HASH, OLD_VARIANT})}.get,
        at="t",
    )
    assert (found.known, list(found.refused)) == (2, ["c"])


FIRST_REPORTS = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from hedgerow.fleet.reported import decode_report

REPORT = '''{"status": "ok", "model": {"name": "a", "version": "1", "sha256": "x"}, "board": {"disk_free_mb": 9}}'''
sys.setswitchinterval(1e-6)
for _ in range(80):
    worker = os.fork()
    if worker == 0:
        with ThreadPoolExecutor(24) as pool:
            list(pool.map(lambda _: decode_report(REPORT, where="there"), range(48)))
        os._exit(0)
    if os.waitpid(worker, 0)[1] != 0:
        sys.exit("a worker died")
"""


@pytest.mark.slow
def test_workers_may_read_their_first_reports_in_many_threads_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_REPORTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
