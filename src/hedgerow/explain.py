"""One host, explained: what the inventory says and where, what the host says, and where the two differ.

Pure but for ``ask``, which logs in once. Ansible decides which value wins; here
only the place of the winner is looked up (``hedgerow.inventory.files``).
"""

from __future__ import annotations

from typing import Any

import msgspec

from hedgerow import remote_script, ssh
from hedgerow.converge import hat as hats
from hedgerow.converge import pins
from hedgerow.inventory import FleetRelease, Host, Inventory
from hedgerow.inventory.files import Definition, Files
from hedgerow.inventory.problem import shown

ASK_TIMEOUT_S = 30.0


class Origin(msgspec.Struct, frozen=True):
    """A value and where it is written. ``overrides`` names places whose value lost against it."""

    key: str
    value: Any
    place: str | None
    overrides: tuple[str, ...] = ()


def origins(host: Host, found: Files) -> list[Origin]:
    """Return every variable of ``host`` with the place that it comes from; None for what no YAML file says."""
    scopes = ["group:all", *(f"group:{name}" for name in host.groups), f"host:{host.name}"]
    by_key: dict[str, list[Definition]] = {}
    for definition in found.definitions():
        if definition.scope in scopes:
            by_key.setdefault(definition.key, []).append(definition)
    explained = []
    for key, value in sorted(host.vars.items()):
        if key == "ansible_local":
            continue  # ansible-inventory's own
        candidates = sorted(by_key.get(key, []), key=lambda definition: scopes.index(definition.scope))
        # The same value may stand in several places; the most specific one is the one to edit.
        winner = next((one for one in reversed(candidates) if one.value == value), None)
        others = tuple(_place(one) for one in candidates if one is not winner)
        explained.append(Origin(key, value, _place(winner) if winner else None, others))
    return explained


def _place(definition: Definition) -> str:
    line = definition.line
    return shown(definition.file) if line is None else f"{shown(definition.file)}:{line}"


def ask(inventory: Inventory, host: Host, *, timeout_s: float = ASK_TIMEOUT_S) -> dict[str, Any]:
    """Ask ``host`` what it is, in one login: ``{"hardware": …, "state": …, "npu": …}`` (``hedgerow.device``).

    Raises:
        NetworkError: it cannot be reached, or lets nobody in.
        UsageError: the fleet had no first contact yet.
        DeviceError: its answer makes no sense.
    """

    def execute(cmd: str, *, in_data: bytes) -> dict[str, Any]:
        done = ssh.run(inventory, host, cmd, stdin=in_data, timeout_s=timeout_s)
        return {"rc": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    modules = ("hardware", "state", "npu")
    calls: list[tuple[str, str, dict[str, Any]]] = [(f"hedgerow.device.{module}", "read", {}) for module in modules]
    answers = remote_script.run_all(execute, calls, host=host.name, python="sudo -n /usr/bin/python3")
    return dict(zip(modules, answers, strict=True))


def board_differences(
    host: Host, release: FleetRelease, hardware: dict[str, Any], npu: dict[str, Any] | None = None
) -> list[str]:
    """Say where the board and its HAT are not what the inventory says; a sentence each."""
    board = hardware["board"]
    found = []
    if not board["is_pi5"]:
        found.append(f"this is no Raspberry Pi 5: it calls itself {board['model'] or 'nothing'}")
    if board["serial"] != host.serial:
        found.append(f"the board's serial is {board['serial']}, the inventory says {host.serial}")
    lock = msgspec.to_builtins(release)
    found += hats.verdict({"hardware": hardware, "npu": npu}, host.hat, lock)["problems"]
    return found


def differences(host: Host, release: FleetRelease, reported: dict[str, Any]) -> list[str]:
    """Say where the host is not what the inventory says, board and system; a sentence each."""
    state = reported["state"]
    found = board_differences(host, release, reported["hardware"], reported.get("npu"))
    if state["hostname"] != host.name:
        found.append(f"the host calls itself {state['hostname']}")
    suite = state["os"].get("version_codename")
    if suite != release.os.suite:
        found.append(f"the host runs {suite}, the lock says {release.os.suite}")
    if state["python"] != release.runtime.python:
        found.append(f"the host has Python {state['python']}, the lock says {release.runtime.python}")
    facts = {"hardware": reported["hardware"], "packages": state["packages"]}
    found += pins.drift(msgspec.to_builtins(release), host.hat, facts)
    return found


def trouble(hardware: dict[str, Any]) -> list[str]:
    """Say what the board suffers from at this moment; a word or two each."""
    throttled = hardware["throttled"]
    return [name.replace("_", " ") for name, is_on in (throttled["now"] if throttled else {}).items() if is_on]
