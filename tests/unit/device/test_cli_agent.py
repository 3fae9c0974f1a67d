"""``hedgerow-device events``, and what ``drain`` says where there is no server."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hedgerow.device import cli, events
from hedgerow.device.control import ServerDownError
from hedgerow.device.events import Event
from hedgerow.errors import UsageError

NOW = datetime.now(UTC)
Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    (tmp_path / "activation").mkdir()
    config = {"fleet": "f", "site": "s", "host": "h", "serial": "0", "registry_url": "https://r", "serving_model": "m",
              "activation_dir": str(tmp_path / "activation"), "control_socket": str(tmp_path / "none")}  # fmt: skip
    (tmp_path / "device.yml").write_text(json.dumps(config))
    for hours in (48, 5, 0):
        at = datetime.now(UTC) - timedelta(hours=hours)  # a run of all tests takes longer than the ten minutes of one
        events.append(tmp_path / "activation", Event(at, "activated", f"m@0.0.{hours}", "why" if hours else None))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli.cli, [*arguments, "--config", str(tmp_path / "device.yml")])

    return run


def models(done: Result) -> list[str]:
    return [line["model"] for line in json.loads(done.stdout)]


def test_all_oldest_first(command: Command) -> None:
    lines = command("events").stdout.splitlines()
    assert [line.split()[2] for line in lines] == ["m@0.0.48", "m@0.0.5", "m@0.0.0"]
    assert lines[0].endswith("  why")
    assert models(command("events", "--json")) == ["m@0.0.48", "m@0.0.5", "m@0.0.0"]


@pytest.mark.parametrize(
    "since, expected",
    [
        ("3d", 3),
        ("6h", 2),
        ("10m", 1),
        ("3600s", 1),
        ((NOW - timedelta(hours=6)).isoformat(), 2),
        ((NOW - timedelta(hours=6)).replace(tzinfo=None).isoformat(timespec="minutes"), 2),
        ((NOW + timedelta(hours=1)).isoformat(), 0),
    ],
    ids=["days", "hours", "minutes", "seconds", "with a zone", "without one", "to come"],
)
def test_since(command: Command, since: str, expected: int) -> None:
    assert len(models(command("events", "--json", "--since", since))) == expected


def test_nothing_is_said_to_be_nothing(command: Command) -> None:
    assert command("events", "--since", "2999-01-01").stdout == "nothing\n"


@pytest.mark.parametrize("since", ["yesterday", "5w", "", "-1h"])
def test_what_is_no_time_is_said_with_what_is(command: Command, since: str) -> None:
    error = command("events", f"--since={since}").exception
    assert isinstance(error, UsageError)
    assert "12h" in str(error.next_step)


@pytest.mark.parametrize("verb", ["drain", "undrain"])
def test_a_server_that_is_down_is_not_drained(command: Command, tmp_path: Path, verb: str) -> None:
    assert isinstance(command(verb).exception, ServerDownError)
    assert len(events.read(tmp_path / "activation")) == 3


@pytest.mark.parametrize("within", ["0", "3601", "soon"])
def test_a_drain_without_bounds_is_wrong_use(command: Command, within: str) -> None:
    assert command("drain", "--within", within).exit_code == 2
