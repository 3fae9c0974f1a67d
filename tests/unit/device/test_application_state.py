"""What the application switch writes down, as the health report reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hedgerow.device import application_state
from hedgerow.device.application_switch import Places, Switch


def look(tmp_path: Path, shown: str, *, version: str | None = "1.0.0", answers: bool = True, stale: bool = False):
    places = Places(tmp_path / "bundles", tmp_path / "root", tmp_path / "run")
    home = places.root / "kiosk"
    home.mkdir(parents=True)
    places.run.mkdir()
    if version is not None:
        (home / version).mkdir()
        (home / version / "hedgerow-application.json").write_text(json.dumps({"ports": [["tcp", 8090]]}))
        (home / "current").symlink_to(version)
    if stale:
        places.stale("kiosk").touch()
    text = f"Id=hedgerow-application-kiosk.service\n{shown}\n"
    Switch(places, run=lambda _: (0, text), answers=lambda *_: answers).answer('{"look": true}')
    (found,) = application_state.read(places.run / "state.json")
    return found


UP = "ActiveState=active\nSubState=running\nResult=success\nNRestarts=2"
DOWN = "ActiveState=failed\nSubState=failed\nResult=oom-kill\nNRestarts=5"


@pytest.mark.parametrize(
    "shown, options, active, answers, trouble",
    [
        (UP, {}, True, True, None),
        (UP, {"answers": False}, True, False, "nobody answers at 8090/tcp"),
        (DOWN, {}, False, None, "failed/failed, oom-kill"),
        (UP, {"stale": True}, False, True, "1.0.0 is in place and was not started"),
        ("ActiveState=inactive\nSubState=dead\nNRestarts=0", {"version": None}, False, None, None),
    ],
)
def test_each_state_is_told(tmp_path, shown, options, active, answers, trouble):  # noqa: PLR0917 - one a column
    found = look(tmp_path, shown, **options)
    assert (found.name, found.version) == ("kiosk", options.get("version", "1.0.0"))
    assert (found.active, found.answers, found.trouble) == (active, answers, trouble)


def test_restarts_are_told(tmp_path):
    assert look(tmp_path, UP).restarts == 2


def test_nobody_has_looked_yet(tmp_path):
    assert application_state.read(tmp_path / "state.json") is None
    (tmp_path / "state.json").write_text("{}")
    assert application_state.read(tmp_path / "state.json") is None


def test_a_host_that_runs_none_says_so_by_an_empty_list(tmp_path):
    places = Places(tmp_path / "bundles", tmp_path / "root", tmp_path)
    Switch(places, run=lambda _: (0, "")).answer('{"look": true}')
    assert application_state.read(tmp_path / "state.json") == ()
