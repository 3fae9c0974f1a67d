"""What a sweep prints."""

from __future__ import annotations

import copy
import json

import pytest
from deploy import report

from hedgerow import paths
from hedgerow.inventory import load

REPORTED = json.loads((paths.repository_root() / "tests/fixtures/reported/pi-orchard-3.json").read_text())
SERVING = {"uptime_s": 93784, "models": {"assistant": "1.0.0"}}


@pytest.fixture(scope="module")
def fleet():
    return load(paths.repository_root() / "inventory" / "emulated")


@pytest.fixture
def hardware():
    return copy.deepcopy(REPORTED["hardware"])


def test_a_host_as_it_should_be(fleet, hardware):
    row = report.record(fleet.hosts["pi-orchard-3"], fleet.release, hardware, SERVING)
    assert (row.serial, row.hat, row.temperature_c, row.throttled) == ("e0d1c2b3a4950013", "hat-plus-2", 56.7, ())
    assert (row.models, row.differs, row.problem) == ({"assistant": "1.0.0"}, (), None)


def test_another_board_under_this_name(fleet, hardware):
    row = report.record(fleet.hosts["pi-orchard-2"], fleet.release, hardware, SERVING)
    assert row.differs == ("the board's serial is e0d1c2b3a4950013, the inventory says e0d1c2b3a4950012",)


def test_json_has_every_host(fleet, hardware, capsys):
    rows = [
        report.record(fleet.hosts["pi-orchard-3"], fleet.release, hardware, SERVING),
        report.unreachable(fleet.hosts["gw-orchard"], "no login; see above"),
    ]
    report.show("meadow", rows, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert [host["problem"] for host in printed["hosts"]] == [None, "no login; see above"]


def test_table_counts_who_answered(fleet, hardware, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    hardware["throttled"]["now"]["undervoltage"] = True
    rows = [
        report.record(fleet.hosts["pi-orchard-3"], fleet.release, hardware, SERVING),
        report.unreachable(fleet.hosts["gw-orchard"], "no login; see above"),
    ]
    report.show("meadow", rows, as_json=False)
    text = capsys.readouterr().out
    assert "1 of 2 hosts answered" in text
    assert "1 day, 2:03:04" in text
    assert "undervoltage" in text
    assert "no login; see above" in text
