from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from hedgerow import inventory as inventories
from hedgerow.commands import fleet as commands
from hedgerow.fleet import access, table
from hedgerow.identity.profiles import Profile

FLEET = "meadow-unit"
OFF = {"status": "degraded", "reasons": [{"code": "temperature_high", "severity": "warning", "text": "board at 81 °C"}]}


def test_every_host_is_a_row_in_order(make_pi) -> None:
    well, warm, off, odd = (make_pi(f"pi-{number}") for number in range(4))
    warm.report(OFF)
    odd.answers.clear()
    off.stop()
    rows = table.collect([pi.endpoint for pi in (well, warm, off, odd)], access.context(FLEET, Profile.MONITOR))
    assert [(row.host, row.health, row.ok) for row in rows] == [
        ("pi-0", "ok", True),
        ("pi-1", "degraded", False),
        ("pi-2", "unreachable", False),
        ("pi-3", "no report", False),
    ]
    assert rows[0].certificate_expires is not None
    assert "cannot be reached" in str(rows[2].problem)
    assert well.seen[0][3]["organizationalUnitName"] == "monitor"


def test_cells_stand_under_their_columns(pi) -> None:
    row = table.collect([pi.endpoint], access.context(FLEET, Profile.MONITOR))[0]
    now = row.certificate_expires - timedelta(days=29, hours=3)
    assert dict(zip(table.COLUMNS, table.cells(row, now), strict=True)) == {
        "host": "pi-1",
        "board": "Pi 5 rev 1.1",
        "HAT": "hat-plus-2",
        "model": "assistant@1.0.0",
        "tokens/s": "11.5",
        "TTFT ms": "240",
        "°C": "48.2",
        "cert": "29 d",
        "health": "ok",
    }


def test_reasons_stand_beside_the_health(pi) -> None:
    pi.report(OFF)
    row = table.collect([pi.endpoint], access.context(FLEET, Profile.MONITOR))[0]
    assert table.cells(row, datetime.now(UTC))[-1] == "degraded; board at 81 °C"


def test_the_last_days_of_a_certificate_are_told_in_hours() -> None:
    ends = datetime(2026, 11, 21, 12, tzinfo=UTC)
    row = table.Row(host="a", health="ok", certificate_expires=ends)
    assert table.cells(row, ends - timedelta(days=2))[-2] == "2 d"
    assert table.cells(row, ends - timedelta(hours=30))[-2] == "30 h"
    assert table.cells(row, ends + timedelta(hours=5))[-2] == "-5 h"


@pytest.fixture
def two_pis(make_pi, monkeypatch: pytest.MonkeyPatch):
    """``hedgerow fleet`` with an inventory whose addresses are two doubles."""
    pis = [make_pi("pi-1"), make_pi("pi-2")]

    class Found:
        fleet = FLEET
        vars = {"serving_model": "assistant"}  # noqa: RUF012 - read only

    monkeypatch.setattr(inventories, "load", lambda path, limit=None: Found())
    monkeypatch.setattr(commands, "_endpoints", lambda found: [pi.endpoint for pi in pis])
    return pis


def run(*arguments: str):
    return CliRunner().invoke(commands.fleet, arguments, standalone_mode=False)


def test_the_table_command(two_pis) -> None:
    done = run("table", "--json")
    assert (done.return_value, [row["health"] for row in json.loads(done.output)]) == (0, ["ok", "ok"])
    two_pis[1].stop()
    done = run("table", "--json")
    assert (done.return_value, [row["health"] for row in json.loads(done.output)]) == (1, ["ok", "unreachable"])


def test_the_ask_command_speaks_to_every_pi(two_pis) -> None:
    for pi in two_pis:
        pi.says({"choices": [{"delta": {"content": f"I am {pi.name}."}}]}, "[DONE]")
    done = run("ask", "Who are you?", "--json")
    assert done.return_value == 0
    assert [answer["text"] for answer in json.loads(done.output)] == ["I am pi-1.", "I am pi-2."]
    assert two_pis[0].seen[0][3]["organizationalUnitName"] == "client"
    assert "I am pi-2." in run("ask", "Who are you?").output
    two_pis[0].stop()
    assert run("ask", "Who are you?", "--json").return_value == 1
