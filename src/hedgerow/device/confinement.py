"""Which AppArmor profile confines what on a host: loading profiles, and whether they hold what they are for.

The standard library alone: the controller sends this file to hosts (``hedgerow.remote_script``).
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

FOLDER = "/etc/apparmor.d"
# Every profile of ours has this in front, and nobody else's has: what a host has beyond the wanted ones is removed.
PREFIX = "hedgerow-"
# Profile → the unit whose processes run under it; None where it is attached to a program by its path alone.
UNITS: dict[str, str | None] = {
    "hedgerow-server": "hedgerow-server.service",
    "hedgerow-exporter": "hedgerow-exporter.service",
    "hedgerow-device": "hedgerow-deadline.service",
    "hedgerow-agent": "hedgerow-agent.service",
    "hedgerow-bundle": None,
    "hedgerow-mender": None,
    "hedgerow-node-exporter": "prometheus-node-exporter.service",
    "hedgerow-nginx": "nginx.service",
    "hedgerow-renewal": "hedgerow-renewal.service",
    "hedgerow-vision": "hedgerow-vision.service",
}
_TIMEOUT_S = 120
_SYSTEM = Path("/")


def apply(load: list[str], remove: list[str]) -> dict[str, Any]:
    """Have the kernel take the placed profiles of ``load``, new or changed, and forget those of ``remove``.

    Both are names of ours. A profile that is replaced takes hold of the processes that run under it, at once.
    """
    steps = []
    if remove:
        # By name, on standard input: the files may be gone already.
        stubs = "\n".join(f"profile {name} {{}}" for name in remove)
        steps.append((["apparmor_parser", "--remove"], stubs))
    if load:
        # Compiled anew: a cached policy may be older than a file that it includes.
        files = [f"{FOLDER}/{name}" for name in load]
        steps.append((["apparmor_parser", "--replace", "--skip-read-cache", "--write-cache", *files], ""))
    for command, text in steps:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        if done.returncode != 0:
            said = (done.stderr + done.stdout).strip()
            return {"changed": True, "failed": True, "msg": f"{' '.join(command)}: exit {done.returncode}: {said}"}
    return {"changed": bool(steps), "loaded": load, "removed": remove}


def enforcing(root: Path = _SYSTEM) -> dict[str, bool]:
    """Profile → whether it is enforced on every process that it is for; without an entry: not known.

    A profile may be loaded while its service runs without it (a unit without ``AppArmorProfile=``, a profile that was
    unloaded and loaded again), so the label of each process counts. Needs no rights but to see ``/proc``: the list
    ``/sys/kernel/security/apparmor/profiles`` is root's, the folders beside it are everybody's.
    """
    on = _text(root / "sys/module/apparmor/parameters/enabled") == "Y"
    modes = {
        _text(folder / "name"): _text(folder / "mode")
        for folder in (root / "sys/kernel/security/apparmor/policy/profiles").glob(f"{PREFIX}*")
    }
    found = {}
    for name, unit in UNITS.items():
        labels = _labels(root, unit, on=on)
        if name in modes or labels:
            held = modes.get(name) == "enforce" and all(label == f"{name} (enforce)" for label in labels)
            if held or None not in labels:
                found[name] = held
    return found


def _labels(root: Path, unit: str | None, *, on: bool) -> list[str | None]:
    """The label of each process of a unit; None where it cannot be seen."""
    if unit is None:
        return []
    processes = _text(root / f"sys/fs/cgroup/system.slice/{unit}/cgroup.procs") or ""
    return [_text(root / f"proc/{pid}/attr/current") if on else "unconfined" for pid in processes.split()]


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip("\n\0")
    except OSError:
        return None
