"""``hedgerow ca holders`` and ``settle``, on a fleet's real history."""

import datetime as dt
import json
import sys

import pytest

from hedgerow import cli
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.holders import Holders, Settled

SERIAL = "10000000a1b2c3d4"
NOW = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)


@pytest.fixture
def call(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def call_(*words):
        monkeypatch.setattr(sys, "argv", ["hedgerow", "ca", *words, "-i", "inventory/emulated"])
        code = cli.run(cli.cli, "hedgerow")
        out, err = capsys.readouterr()
        return code, out, err

    return call_


@pytest.fixture
def history(tmp_path, monkeypatch):
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    FleetCA.init(tmp_path / "var" / "fleets" / "meadow", "meadow")
    return Holders(tmp_path / "var" / "fleets" / "meadow" / "ca")


def test_the_history_is_listed(call, history):
    history.seen("pi-orchard-1", SERIAL, "5a" * 32, NOW, NOW)
    code, out, _ = call("holders")
    assert code == 0
    assert "pi-orchard-1" in out
    assert "key 5a5a5a5a5a5a5a5a" in out
    assert json.loads(call("holders", "--json")[1])[0]["event"] == "seen"


def test_what_was_settled_is_written_down_with_who_and_why(call, history):
    code, _, _ = call("settle", SERIAL, "--reason", "a lab board")
    assert code == 0
    (line,) = history.lines()
    assert isinstance(line, Settled)
    assert (line.serial, line.reason) == (SERIAL, "a lab board")
    assert line.by


def test_nobody_of_that_name_is_wrong_use(call, history):
    code, _, err = call("settle", "pi-nowhere", "--reason", "x")
    assert code == 2
    assert "no board of this fleet" in err
    assert history.lines() == []


def test_a_fleet_without_a_ca_says_so(call, tmp_path, monkeypatch):
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "empty"))
    code, _, err = call("holders")
    assert code == 2
    assert "hedgerow ca init" in err
