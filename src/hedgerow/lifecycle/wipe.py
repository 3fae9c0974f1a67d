"""Take from a device what makes it one of the fleet: its key first, this controller's way in last.

The standard library alone: the controller sends this file's source (``hedgerow.remote_script``). Invariants:

- Keys go first, so that a run that is cut off leaves the least; the way in goes last, so that it can be run again.
- Nothing stops at a fault: what could not be done is returned, a sentence each.
- A second run finds nothing, changes nothing and says so.

Overwriting a key before its file goes is as much as a program can do: SD cards and SSDs keep old blocks for a while.
Whoever must be sure destroys the card, or had the data partition encrypted and destroys its key.
"""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/hedgerow")
KEY = STATE / "identity/device.key"
# In this order. What a path holds goes with it.
SECRETS = (STATE / "identity", STATE / "trust")
CONTENT = (STATE / "models", STATE / "activation", Path("/srv/hedgerow"), Path("/opt/hedgerow"))
CONFIGURATION = Path("/etc/hedgerow")
# An emulated board's own: where its hardware is read. No board has it.
KEPT = frozenset({"hardware-root"})
# Not named after us, and using what is taken away: the exporter's certificate, the registry's.
OTHER_UNITS = ("prometheus-node-exporter.service", "nginx.service", "mender-client.service")
LAST_UNIT = "hedgerow-server.service"
SUDOERS = Path("/etc/sudoers.d/50-hedgerow-admin")
_TIMEOUT_S = 120
_GRACE_S = 5  # for this program's answer to be heard


def wipe(admin_user: str, *, dry_run: bool = False) -> dict[str, Any]:
    """Stop our units and remove what they had; ``dry_run`` only looks.

    Returns ``{"changed", "done": [...], "left": [...]}``; in a dry run ``done`` is what would be.
    """
    done: list[str] = []
    left: list[str] = []
    for unit in _units():
        _stop(unit, done, left, dry_run=dry_run)
    # Also where the key is a link into the generation in service, and one that waits for its certificate.
    for key in (KEY, KEY.with_name(f"{KEY.name}.new"), *KEY.parent.glob(f"generations/*/{KEY.name}")):
        if key.is_file() and not key.is_symlink() and not dry_run:
            _attempt(f"overwrite {key}", functools.partial(_overwrite, key), left)
    for path in (*SECRETS, *CONTENT, *_configuration()):
        _remove(path, done, left, dry_run=dry_run)
    _remove_rest_of_state(done, left, dry_run=dry_run)
    _close_the_door(admin_user, done, left, dry_run=dry_run)
    return {"changed": bool(done), "done": done, "left": left}


def _units() -> list[str]:
    """Ours that run or start at boot; the server last, so that it answers as long as anything does."""
    listed = _output("systemctl", "list-unit-files", "--no-legend", "--plain", "hedgerow-*", *OTHER_UNITS)
    enabled = {line.split()[0] for line in listed.splitlines() if line.split()[1:2] == ["enabled"]}
    loaded = _output("systemctl", "list-units", "--no-legend", "--plain", "--all", "hedgerow-*", *OTHER_UNITS)
    active = {line.split()[0] for line in loaded.splitlines() if line.split()[2:3] in (["active"], ["activating"])}
    # Timers and paths before what they start again.
    return sorted(enabled | active, key=lambda unit: (unit == LAST_UNIT, unit.endswith(".service"), unit))


def _stop(unit: str, done: list[str], left: list[str], *, dry_run: bool) -> None:
    done.append(f"stop {unit}")
    if dry_run:
        return
    result = _run("systemctl", "disable", "--now", unit)
    if result is not None:
        done.pop()
        left.append(f"{unit} could not be stopped: {result}")


def _configuration() -> list[Path]:
    if not CONFIGURATION.is_dir():
        return []
    return sorted(path for path in CONFIGURATION.iterdir() if path.name not in KEPT)


def _remove(path: Path, done: list[str], left: list[str], *, dry_run: bool) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if dry_run or _attempt(f"remove {path}", lambda: _delete(path), left):
        done.append(f"remove {path}")


def _remove_rest_of_state(done: list[str], left: list[str], *, dry_run: bool) -> None:
    """What else lies in our folder; the folder itself stays where it is a partition of its own."""
    if not STATE.is_dir():
        return
    for path in sorted(STATE.iterdir()):
        if path.name != "lost+found" and path not in {*SECRETS, *CONTENT}:
            _remove(path, done, left, dry_run=dry_run)
    if os.path.ismount(STATE):
        left.append(
            f"{STATE} is a partition of its own: if it is encrypted, destroy its key (cryptsetup luksErase), "
            f"else overwrite it"
        )


def _close_the_door(admin_user: str, done: list[str], left: list[str], *, dry_run: bool) -> None:
    try:
        home = Path(pwd.getpwnam(admin_user).pw_dir)
    except KeyError:
        home = None
    if home is not None:
        _remove(home / ".ssh/authorized_keys", done, left, dry_run=dry_run)
        if not _is_expired(admin_user):
            # Not removed: this program runs in one of its sessions.
            problem = None if dry_run else _run("usermod", "--lock", "--expiredate", "1", admin_user)
            done.append(f"lock user {admin_user}") if problem is None else left.append(
                f"user {admin_user} could not be locked: {problem}"
            )
    _remove(SUDOERS, done, left, dry_run=dry_run)
    if home is not None and done and not dry_run:
        # Who is logged in stays so: a multiplexed connection of a controller, too. This program's own is one of them.
        problem = _run(
            "systemd-run", "--quiet", "--collect", f"--on-active={_GRACE_S}", "pkill", "-KILL", "-u", admin_user
        )
        if problem is not None:
            left.append(f"open sessions of {admin_user} could not be ended: {problem}")


def _is_expired(user: str) -> bool:
    """Whether shadow(5) already has an expiry date for ``user``: the eighth field."""
    try:
        lines = Path("/etc/shadow").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(line.split(":")[0] == user and line.split(":")[7:8] not in ([], [""]) for line in lines)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _overwrite(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(os.urandom(max(1, path.stat().st_size)))
        os.fsync(file.fileno())


def _attempt(what: str, action: Any, left: list[str]) -> bool:
    try:
        action()
    except OSError as error:
        left.append(f"{what}: {error.strerror or error}")
        return False
    return True


def _run(*command: str) -> str | None:
    """None if the program did it, else its words."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")


def _output(*command: str) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
