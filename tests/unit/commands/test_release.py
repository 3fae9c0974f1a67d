"""`hedgerow release` on copies of the example inventory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from hedgerow import paths
from hedgerow.commands.release import read_lock, release
from hedgerow.errors import RefusedError, UsageError

INVENTORIES = paths.repository_root() / "inventory"


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    shutil.copytree(INVENTORIES / "example", tmp_path / "example")
    shutil.copy(INVENTORIES / "schema.json", tmp_path)
    return tmp_path / "example"


def run(*arguments: str) -> str:
    done = CliRunner().invoke(release, list(arguments), catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def edit(fleet: Path, old: str, new: str) -> None:
    file = fleet / "group_vars/all/release.yml"
    text = file.read_text()
    assert text.count(old) >= 1
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize("name", ["emulated", "example"])
def test_the_inventories_that_we_ship_are_taken(name: str) -> None:
    answer = json.loads(run("check", "-i", str(INVENTORIES / name), "--json"))
    assert not answer["refused"]
    assert answer["findings"] == []


def test_a_broken_lock_is_refused_with_its_rule(fleet: Path) -> None:
    edit(fleet, "    library: 5.1.1\n", "    library: 5.2.0\n")
    with pytest.raises(RefusedError, match="hailo-one-version"):
        run("check", "-i", str(fleet))


def test_an_allowed_breach_is_said_and_taken(fleet: Path) -> None:
    edit(fleet, "5.1.1\n", "5.2.0\n")
    edit(fleet, "5.1.1-1\n", "5.2.0-1\n")
    with pytest.raises(RefusedError, match="hailo-archive"):
        run("check", "-i", str(fleet))
    edit(fleet, "  allow: {}", "  allow: { hailo-archive: two weeks on the bench }")
    assert "two weeks on the bench" in run("check", "-i", str(fleet))


def test_another_lock_is_judged_for_the_same_fleet(fleet: Path, tmp_path: Path) -> None:
    lock = tmp_path / "next.yml"
    lock.write_text((fleet / "group_vars/all/release.yml").read_text().replace('python: "3.13"', 'python: "3.11"'))
    with pytest.raises(RefusedError, match="suite-python"):
        run("check", "-i", str(fleet), "--lock", str(lock))


def test_what_was_not_looked_at_is_not_called_ok(fleet: Path) -> None:
    shown = run("check", "-i", str(fleet))
    assert "not asked: name a bundle" in " ".join(shown.split())


@pytest.mark.parametrize("text", ["a: 1", "[", "fleet_release: { name: x }"])
def test_a_file_that_is_no_lock_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "lock.yml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_lock(file)
    assert str(file) in str(caught.value)


def test_rules_are_listed() -> None:
    assert {"driver-builds", "one-lane"} <= {rule["rule"] for rule in json.loads(run("rules", "--json"))}
