"""What needs no host: comparing, predicting, refusing to begin, and the command line of the new login.

Confirming and undoing over real connections: `tests/fleet/test_firewall.py`.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

Load = Callable[[str], ModuleType]
Play = Callable[..., dict[str, Any]]


def task(folder: Path, **more: Any) -> dict[str, Any]:
    who = {"owner": str(folder.stat().st_uid), "group": str(folder.stat().st_gid)}
    return {
        "name": "guarded",
        "hedgerow_guarded": {
            "name": "unit-test",
            "files": [{"content": "new\n", "dest": str(folder / "file"), **who}],
            "apply": [{"argv": ["touch", str(folder / "applied")], "for": [str(folder / "file")]}],
        }
        | more,
    }


def test_what_is_as_wanted_costs_nothing_and_starts_no_clock(play: Play, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("new\n")
    (tmp_path / "file").chmod(0o644)
    result = play([task(tmp_path)])["guarded"]
    assert (result["changed"], result["changed_paths"], result["differs"]) == (False, [], {})
    assert str(tmp_path / "file") in result["settled"]
    assert not (tmp_path / "applied").exists()


def test_check_mode_predicts_and_touches_nothing(play: Play, tmp_path: Path) -> None:
    result = play([task(tmp_path)], "--check")["guarded"]
    assert result["changed"]
    assert result["changed_paths"] == [str(tmp_path / "file")]
    assert not (tmp_path / "file").exists()
    assert not (tmp_path / "applied").exists()


def test_a_running_host_that_differs_counts_as_changed(play: Play, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("new\n")
    (tmp_path / "file").chmod(0o644)
    probe = {
        "function": "hedgerow.device.hardening.probe",
        # No kernel has a pid_max of zero.
        "arguments": {"sysctls": {"kernel.pid_max": "0"}, "firewall": False, "sshd": _no_sshd()},
    }
    result = play([task(tmp_path, probe=probe)], "--check")["guarded"]
    assert result["changed"]
    assert result["changed_paths"] == []
    assert "not 0" in result["differs"]["sysctl"][0]


def _no_sshd() -> dict[str, Any]:
    return {"user": "root", "address": "127.0.0.1", "wanted": {}}


@pytest.fixture
def action(plugin: Load) -> Any:
    module = plugin("action/hedgerow_guarded")
    found = module.ActionModule.__new__(module.ActionModule)
    options = {
        "ssh_args": "-o ControlMaster=auto -o ControlPersist=60s",
        "ssh_common_args": "-o UserKnownHostsFile=/k -J bastion",
        "ssh_extra_args": None,
        "private_key_file": "/key",
        "port": 2222,
        "remote_user": "admin",
        "host": "10.0.0.11",
    }
    found._connection = SimpleNamespace(get_option=options.get)
    found._variables = {"inventory_hostname": "pi-1"}
    return found


def test_the_new_login_goes_the_operator_s_way_but_never_through_the_connection_that_stands(action: Any) -> None:
    words = action._ssh()
    assert words[-1] == "10.0.0.11"
    assert words.index("ControlMaster=no") < words.index("ControlMaster=auto"), "ssh takes the first value"
    assert "ControlPath=none" in words
    assert {"-J", "bastion", "/key", "2222", "admin", "BatchMode=yes"} <= set(words)


def test_a_login_that_fails_says_why(action: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ssh"
    program.write_text("#!/bin/sh\necho 'Permission denied (publickey).' >&2\nexit 255\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    answer = action._through_a_new_connection("hedgerow.device.guard", "confirm", {"name": "x"})
    assert answer == (None, "Permission denied (publickey).")


def test_a_slow_login_has_all_the_time_that_the_change_has(action: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def through(*_: Any, within_s: float) -> tuple[Any, str]:
        given.append(within_s)
        return {"confirmed": True}, ""

    monkeypatch.setattr(action, "_through_a_new_connection", through)
    action._confirm("firewall", time.monotonic() + 60)
    action._confirm("firewall", time.monotonic() + 1)
    assert 55 < given[0] <= 60
    assert given[1] == 20


def test_functions_are_ours_alone(plugin: Load) -> None:
    from ansible.errors import AnsibleActionFail

    module = plugin("action/hedgerow_guarded")
    with pytest.raises(AnsibleActionFail, match="names one of ours"):
        module._call({"function": "os.system", "arguments": {}})


def test_entries_are_those_of_hedgerow_files(play: Play, tmp_path: Path) -> None:
    """One grammar: what `hedgerow_files` refuses is refused here."""
    broken = task(tmp_path)
    broken["hedgerow_guarded"]["files"] = [{"content": base64.b64encode(b"x").decode()}]
    result = play([broken])["guarded"]
    assert result["failed"]
    assert "needs dest" in result["msg"]
