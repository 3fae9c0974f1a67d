"""``hedgerow host explain`` as it is typed."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from hedgerow import cli, explain, paths
from hedgerow.errors import NetworkError, UsageError

EMULATED = str(paths.repository_root() / "inventory" / "emulated")
REPORTED = json.loads((paths.repository_root() / "tests/fixtures/reported/pi-orchard-3.json").read_text())


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(
        cli.cli, ["host", "explain", *words, "-i", EMULATED], standalone_mode=False
    )


def test_offline_logs_in_nowhere(run, monkeypatch):
    monkeypatch.setattr(explain, "ask", lambda *_: pytest.fail("logged in"))
    result = run("pi-orchard-3", "--offline", "--json")
    answer = json.loads(result.stdout)
    assert (answer["reported"], answer["problem"]) == (None, "not asked")
    cooling = next(origin for origin in answer["inventory"] if origin["key"] == "cooling")
    assert cooling["value"] == "passive"
    assert "hosts.yml:" in cooling["place"]


def test_unreachable_host_is_explained_as_far_as_known(run, monkeypatch):
    def nobody(*_):
        raise NetworkError("Connection refused")

    monkeypatch.setattr(explain, "ask", nobody)
    result = run("pi-orchard-3")
    assert "the host reports nothing: Connection refused" in result.stdout
    assert "e0d1c2b3a4950013" in result.stdout


def test_a_host_that_is_what_the_inventory_says(run, monkeypatch):
    monkeypatch.setattr(explain, "ask", lambda *_: REPORTED)
    result = run("pi-orchard-3")
    assert "6.18.50+rpt-rpi-2712" in result.stdout
    assert "the host is what the inventory says" in result.stdout


def test_a_host_that_is_another_one(run, monkeypatch):
    monkeypatch.setattr(explain, "ask", lambda *_: REPORTED)
    result = run("pi-orchard-1", "--json")
    differences = json.loads(result.stdout)["differences"]
    assert any("serial is e0d1c2b3a4950013, the inventory says e0d1c2b3a4950011" in text for text in differences)


def test_a_name_with_a_typo(run):
    result = run("pi-orchad-3")
    assert isinstance(result.exception, UsageError)
    assert result.exception.next_step == "did you mean pi-orchard-3?"
