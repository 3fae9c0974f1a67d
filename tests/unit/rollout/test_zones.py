from __future__ import annotations

import sys
import types
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from hedgerow.rollout import prepare, zones
from hedgerow.rollout.plan import Plan, Release, Target
from hedgerow.rollout.plan_text import remarks
from hedgerow.rollout.policy import Policy, parse

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def database(folder: Path, text: str) -> tuple[str, ...]:
    folder.mkdir()
    (folder / "tzdata.zi").write_text(text)
    return (str(folder),)


def test_the_edition_is_the_systems_first(tmp_path: Path) -> None:
    known = database(tmp_path / "a", "# version 2025b\n# ddeps backzone zone.tab\nR A 1916 o\n")
    assert zones.version((str(tmp_path / "none"), *known)) == "2025b"
    assert zones.version(database(tmp_path / "b", "R A 1916 o\n")) is None


def test_where_the_system_has_none_it_is_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("tzdata")
    package.IANA_VERSION = "2026a"  # type: ignore[attr-defined] # as the real one has it
    monkeypatch.setitem(sys.modules, "tzdata", package)
    assert zones.version(()) == "2026a"
    monkeypatch.setattr(zones, "PACKAGE", "no_such_tzdata")
    assert zones.version(()) is None


def test_a_plan_names_it_and_says_it_where_local_times_count(published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "tzdata_version", lambda: "2025b")
    policy = {"windows": {"timezone": "Europe/Berlin", "activate": [{"from": "22:00", "to": "05:00"}]}}

    def made(said: object) -> Plan:
        targets = [Target(name="a")]
        return prepare.plan("meadow-unit", bundle="assistant@1.1.0", policy=said, targets=targets, now=NOW)

    plan = made(policy)
    assert plan.tzdata == "2025b"
    assert "local times by the time zone database 2025b" in remarks(plan)
    assert not [line for line in remarks(made(None)) if "time zone" in line]


def test_a_plan_of_an_older_controller_names_none(release: Release) -> None:
    freeze = parse({"freeze": [{"from": "2099-12-24", "to": "2099-12-26"}]}, where="x")
    document = msgspec.to_builtins(Plan(release=release, policy=freeze, waves=[["a"]]))
    del document["tzdata"]
    old = msgspec.convert(document, Plan)
    assert old.tzdata is None
    assert "local times by the time zone database of an edition that it does not name" in remarks(old)
    assert Plan(release=release, policy=Policy(), waves=[["a"]]).tzdata is None
