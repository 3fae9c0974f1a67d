"""The whole enrolment through the real ansible-playbook, with this machine as the device."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hedgerow.identity.ca import FleetCA

pytestmark = pytest.mark.slow

Play = Callable[..., dict[str, Any]]


@pytest.fixture
def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A controller with a CA for fleet ``meadow``; returns where the device keeps its identity."""
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    FleetCA.init(tmp_path / "var" / "fleets" / "meadow", "meadow")
    return tmp_path / "identity"


def enrol(directory: Path, name: str = "enrol", **more: Any) -> dict[str, Any]:
    names = {"fleet": "meadow", "site": "orchard", "host": "pi-1", "serial": "10000000a1b2c3d4"}
    task: dict[str, Any] = {"name": name, "ignore_errors": True}
    return task | {"hedgerow_identity": {"directory": str(directory), "profile": "device"} | names | more}


def test_it_enrols_once_and_tells_nothing_secret(play: Play, identity: Path) -> None:
    found = play([enrol(identity, "first"), enrol(identity, "second"), enrol(identity, "forced", force="yes")], "-vvv")
    assert found["first"]["changed"]
    assert found["first"]["reason"] == "there is no key yet"
    assert found["first"]["files"] == ["device.crt", "ca.crt"]
    assert not found["second"]["changed"]
    assert found["second"]["expires"] == found["first"]["expires"]
    assert found["forced"]["files"] == ["device.crt"]
    secret = re.sub(r"-----.*?-----|\s", "", (identity / "device.key").read_text())
    assert "PRIVATE KEY" not in str(found)
    assert secret[20:60] not in str(found)


def test_check_mode_predicts_and_touches_nothing(play: Play, identity: Path) -> None:
    found = play([enrol(identity)], "--check", "--diff")["enrol"]
    assert found["changed"]
    assert "because: there is no key yet" in found["diff"]["after"]
    assert not identity.exists()


@pytest.mark.parametrize(
    "wrong,text",
    [
        ({"serial": ""}, "serial missing"),
        ({"serial": "42"}, "pi_serial of pi-1 must be 16"),
        ({"profile": "operator"}, "not for devices"),
        ({"profile": "admin"}, "'admin' is not a valid Profile"),
        ({"days": 91}, "1 to 90 days"),
        ({"fleet": "moor"}, "hedgerow ca init"),
        ({"colour": "green"}, "colour"),
    ],
)
def test_wrong_arguments_are_refused(play: Play, identity: Path, wrong: dict[str, Any], text: str) -> None:
    found = play([enrol(identity, **wrong)])["enrol"]
    assert found["failed"]
    assert text in found["msg"]
    assert not (identity / "device.crt").exists()


def test_without_pipelining_it_says_which_setting(play: Play, identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_PIPELINING", "false")
    assert "pipelining = True" in play([enrol(identity)])["enrol"]["msg"]
