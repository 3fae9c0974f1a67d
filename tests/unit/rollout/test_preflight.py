"""Fitness of a host, by its report alone."""

from __future__ import annotations

import msgspec
import pytest

from hedgerow.fleet.reported import Report, ReportedBoard, ReportedModel, ReportedPending, ReportedReason
from hedgerow.registry.manifest import Requires
from hedgerow.rollout import preflight
from hedgerow.rollout.events import HostState, Outcome
from hedgerow.rollout.plan import Release
from hedgerow.rollout.plan_types import Placement
from hedgerow.rollout.variants import ONLY, Variant


@pytest.fixture
def heavy(release: Release) -> Release:
    variant = Variant(name=ONLY, requires=Requires(memory_mb=1200), sha256=release.sha256, size_bytes=90_000_000)
    return msgspec.structs.replace(release, variants=[variant])


def report(**board: float) -> Report:
    model = ReportedModel(name="assistant", version="1.0.0", sha256="01" * 32)
    return Report(status="ok", model=model, board=ReportedBoard(**board))


@pytest.mark.parametrize(
    "free_mb, place, says",
    [
        (1500.0, Placement(), None),
        (800.0, Placement(), "800 MB of its memory free, 1200 MB needed beside what it serves"),
        (800.0, Placement(outage_s=9), None),
        (800.0, None, None),
        (800.0, Placement(variant="another"), None),
    ],
)
def test_memory_for_both_versions(heavy: Release, free_mb: float, place: Placement | None, says: str | None) -> None:
    unfit = preflight.unfit(report(memory_available_mb=free_mb, disk_free_mb=5000), heavy, place)
    assert unfit == (None if says is None else (Outcome.REFUSED, says))


def test_what_is_unknown_is_no_obstacle(heavy: Release) -> None:
    assert preflight.unfit(report(), heavy, Placement()) is None


def test_disk_for_one_more_bundle(heavy: Release) -> None:
    assert preflight.unfit(report(disk_free_mb=189), heavy) == (
        Outcome.REFUSED,
        "189 MB free on its disk, 190 MB needed",
    )


def test_disk_for_what_a_manifest_says_it_takes_beside_its_files(release: Release) -> None:
    builds = [
        Variant(name=name, requires=Requires(memory_mb=1, disk_mb=disk), sha256=release.sha256, size_bytes=90_000_000)
        for name, disk in (("small", 50), ("large", 400))
    ]
    several = msgspec.structs.replace(release, variants=builds)
    board = report(disk_free_mb=500)
    assert preflight.unfit(board, several, Placement(variant="small")) is None
    refused = (Outcome.REFUSED, "500 MB free on its disk, 590 MB needed")
    assert preflight.unfit(board, several, Placement(variant="large")) == refused
    assert preflight.unfit(board, several) == refused, "the largest, where nobody says which"


@pytest.mark.parametrize(
    "known, pending, outcome",
    [
        (HostState(), False, Outcome.ALREADY),
        (HostState(), True, None),
        (HostState(started_at="t", verdict="pass"), False, Outcome.CONFIRMED),
        (HostState(started_at="t", verdict="pass"), True, None),
        (HostState(started_at="t"), False, None),
    ],
)
def test_who_serves_the_release_already(
    release: Release, known: HostState, outcome: Outcome | None, *, pending: bool
) -> None:
    there = Report(
        status="ok",
        model=ReportedModel(name="assistant", version="1.1.0", sha256=release.sha256),
        pending=ReportedPending("soon") if pending else None,
    )
    had = preflight.had(there, release, known)
    assert (None if had is None else had[0]) is outcome


def test_the_same_name_with_another_hash_is_another_version(release: Release) -> None:
    there = Report(status="ok", model=ReportedModel(name="assistant", version="1.1.0", sha256="ff" * 32))
    assert preflight.had(there, release, HostState()) is None


def test_warnings_are_no_obstacle(release: Release) -> None:
    hot = ReportedReason(code="hot", severity="warning")
    assert preflight.unfit(msgspec.structs.replace(report(), reasons=(hot,)), release) is None
