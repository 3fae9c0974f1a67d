"""An Ansible connection to a device in memory: ``hedgerow-device`` acts on one JSON file, named after the address.

The file stands in FAKEPI_FOLDER, and the server double of the same test reads it, too.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

from hedgerow.device.change import configuration_version
from hedgerow.rollout.remote import CONFIRMED_PROGRAM, PROGRAM

DOCUMENTATION = """
name: fakepi
short_description: a device in memory
description: [for tests]
extends_documentation_fragment: [connection_pipelining]
options: {}
"""


class Connection(ConnectionBase):
    transport = "fakepi"
    has_pipelining = True

    def _connect(self) -> Connection:
        return self

    def exec_command(self, cmd: str, in_data: Any = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:  # noqa: FBT001, FBT002
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        # What reaches a real host is: /bin/sh -c 'timeout … hedgerow-device … && sleep 0'
        command = re.sub(r"\s*&& sleep 0$", "", shlex.split(cmd)[-1])
        words = shlex.split(command)
        program = CONFIRMED_PROGRAM if os.environ.get("FAKEPI_CHANGE") else PROGRAM
        assert (words[:2], words[3]) == (["timeout", "--kill-after=10"], program), command
        with (Path(os.environ["FAKEPI_FOLDER"]) / f"{self._play_context.remote_addr}.json").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            state = json.load(file)
            state["stdin"] = (in_data or b"").decode()
            answer = act(state, words[4:])
            file.seek(0)
            file.truncate()
            json.dump(state, file)
        if answer is None:
            raise AnsibleConnectionFailure("ssh: connect to host: No route to host")
        return answer

    def put_file(self, in_path: str, out_path: str) -> None:
        raise AssertionError("nothing is copied to a host")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        raise AssertionError("nothing is fetched from a host")

    def close(self) -> None:
        """Nothing to close."""


def act(state: dict[str, Any], words: list[str]) -> tuple[int, bytes, bytes] | None:  # noqa: C901 - a case a verb
    """What ``hedgerow-device`` does; None for a host that is off."""
    if state.get("off"):
        return None
    verb = words[0]
    state["calls"].append(verb)
    changed = False
    if verb in {"drain", "undrain"} or "--kind" in words or ":" in (words[1:] or [""])[0]:
        return _change(state, words)
    if verb == "stage":
        fault = _fault(state, words)
        if fault is not None:
            return 1, b"", json.dumps(fault).encode()
        changed = words[1] not in state.setdefault("staged", [])
        state["staged"].append(words[1])
    elif verb == "activate":
        changed = state["serves"] != words[1]
        if changed:
            state.update(previous=state["serves"], serves=words[1], pending=True)
            state["off"] = state.get("dies", False)
            if state["off"]:
                return None
    elif verb == "confirm":
        changed, state["pending"] = state["pending"], False
    elif verb == "revert":
        changed = True
        state.update(serves=state["previous"], previous=None, pending=False)
    elif verb == "report":
        return 0, json.dumps(report(state)).encode(), b""
    return 0, json.dumps({"changed": changed, "model": None, "previous": None}).encode(), b""


def _change(state: dict[str, Any], words: list[str]) -> tuple[int, bytes, bytes]:
    """The same for what the server takes up by a restart, which ends a drain."""
    verb, changed = words[0], True
    kind, _, version = words[words.index("--kind") + 1 if "--kind" in words else 1].partition(":")
    if verb in {"drain", "undrain"}:
        changed, state["drained"] = state.get("drained", False) != (verb == "drain"), verb == "drain"
    elif verb == "stage":
        there = version in state.setdefault("staged", []) or (kind == "runtime" and state.get("has_runtimes", False))
        if not there and (kind == "runtime" or configuration_version(state["stdin"].encode()) != version):
            return 2, b"", json.dumps({"what": f"{words[1]} is not on this device", "where": "", "next": None}).encode()
        changed = not there
        state["staged"].append(version)
        state["text"] = state["stdin"]
    elif verb == "activate":
        changed = state[kind] != version
        state["cut"] = state.get("cut", 0) + (changed and not state.get("drained"))
        state.update({"previous": state[kind], kind: version, "pending": True, "drained": False} if changed else {})
    elif verb == "confirm":
        changed, state["pending"] = state["pending"], False
    elif verb == "revert":
        state["cut"] = state.get("cut", 0) + (not state.get("drained"))
        state.update({kind: state["previous"], "previous": None, "pending": False, "drained": False})
    return 0, json.dumps({"changed": bool(changed), "new_bytes": 7, "load_s": 1.0}).encode(), b""


def _fault(state: dict[str, Any], words: list[str]) -> dict[str, Any] | None:
    """What keeps the device from getting a release; one that only looks needs to have it."""
    if "--here" in words:
        there = words[1] in state.get("staged", [])
        return None if there else {"what": "not whole", "where": "/var/lib/hedgerow/models", "next": None}
    if state.get("full"):
        return {"what": "no space left on the device", "where": "/var/lib/hedgerow/models", "next": "make room"}
    if state.get("cut_off"):
        return {"error": "NetworkError", "what": "the registry does not answer", "where": "registry", "next": None}
    return None


def report(state: dict[str, Any]) -> dict[str, Any]:
    """The health report, as the device command and the server give it."""
    name, _, version = (state["serves"] or "").partition("@")
    bad = state["serves"] is not None and state["serves"] == state.get("fails_with")
    bad = bad or any(state[key] != value for key, value in state.get("sound_with", {}).items())
    return {
        "status": "failing" if bad else "ok",
        "reasons": [{"code": "model_failed", "severity": "critical", "text": "bad"}] if bad else [],
        "model": {"name": name, "version": version, "sha256": state["hashes"][state["serves"]]} if name else None,
        "board": {"disk_free_mb": 9000},
        "runtime": state.get("runtime"),
        "configuration": state.get("configuration"),
        "pending": {"confirm_deadline": "2026-11-21T12:00:00Z"} if state["pending"] else None,
    }
