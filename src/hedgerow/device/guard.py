"""Undo a change that nobody confirmed: for changes that can cut this host off from whoever makes them.

The standard library alone: the controller sends this module (``plugins/action/hedgerow_guarded.py``), which leaves
its own copy on the host, because it has to work when nobody can come in any more.

``arm`` → the change → ``confirm`` over a new connection. Without the confirmation in time, systemd runs ``revert``.

Invariants:

- What was there is on disk, synced, before anything changes.
- A power cut between ``arm`` and ``confirm`` reverts at the next boot, before the firewall and sshd start.
- Exactly one of ``confirm`` and ``revert`` wins: each begins by renaming ``armed.json``, which succeeds once.
- A revert that is cut off is finished by the next boot. Nothing of it is left afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

GUARDS = Path("/var/lib/hedgerow/guard")
UNITS = Path("/etc/systemd/system")
_TIMEOUT_S = 60

_UNIT = """\
# Written by Hedgerow (hedgerow.device.guard) for a change that waits for its confirmation; gone once it came.
[Unit]
Description=Undo a change that nobody confirmed ({name})
DefaultDependencies=no
RequiresMountsFor={folder}
Before=sysinit.target nftables.service ssh.service
ConditionPathIsDirectory={folder}

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 -I {folder}/guard.py {name}
TimeoutStartSec=120
"""


class GuardError(Exception):
    """What a person must read; ``hedgerow.remote_script`` carries it to the controller."""

    def __init__(self, what: str, *, where: str | None = None, next_step: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.next_step = what, where, next_step


def arm(
    name: str,
    *,
    paths: list[str],
    live: dict[str, list[str]],
    commands: list[list[str]],
    within_s: int,
    source: str,
) -> dict[str, Any]:
    """Keep what is there and start the clock.

    ``paths`` are the files that will change. ``live`` maps a file name to the command whose output is kept under it
    (a ruleset, say); ``commands`` run after files are back, ``{folder}`` in them is where that output lies.
    ``source`` is this module's own text.

    Raises:
        GuardError: another change waits for its confirmation, or systemd refuses the timer.
    """
    folder = GUARDS / name
    if (folder / "armed.json").exists():
        raise GuardError(
            "an earlier change still waits for its confirmation",
            where=str(folder),
            next_step=f"wait a minute, it will be undone; to undo it now: systemctl start {_service(name)}",
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    kept = [_keep(path, folder / f"kept-{index}") for index, path in enumerate(paths)]
    for file, command in live.items():
        code, said = _run(command)
        _write(folder / file, said.encode() if code == 0 else b"")  # what is not there is kept as nothing
    _write(folder / "guard.py", source.encode())
    commands = [[word.replace("{folder}", str(folder)) for word in command] for command in commands]
    # Written last: it is what makes all of the above count.
    _write(folder / "armed.json", json.dumps({"kept": kept, "commands": commands}).encode())
    _write(UNITS / _service(name), _UNIT.format(name=name, folder=folder).encode())
    wanted = UNITS / "sysinit.target.wants"
    wanted.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (wanted / _service(name)).symlink_to(UNITS / _service(name))
    _sync(wanted)
    for command in (
        ["systemctl", "daemon-reload"],
        ["systemd-run", "--quiet", f"--on-active={within_s}s", "--timer-property=AccuracySec=1s",
         f"--unit={_service(name)}"],
    ):  # fmt: skip
        code, said = _run(command)
        if code != 0:
            _clean(name)
            raise GuardError(f"`{' '.join(command)}` failed, nothing was changed: {said.strip()}")
    return {"changed": True, "within_s": within_s}


def confirm(name: str) -> dict[str, Any]:
    """Let the change stay. ``{"confirmed": False}`` where it was undone already."""
    try:
        (GUARDS / name / "armed.json").rename(GUARDS / name / "confirmed.json")
    except FileNotFoundError:
        return {"changed": False, "confirmed": False}
    _clean(name)
    return {"changed": True, "confirmed": True}


def revert(name: str) -> dict[str, Any]:
    """Put everything back, as far as it goes; what failed is said and not hidden."""
    folder = GUARDS / name
    with contextlib.suppress(FileNotFoundError):
        (folder / "armed.json").rename(folder / "reverting.json")
    try:
        armed = json.loads((folder / "reverting.json").read_text())
    except FileNotFoundError:
        _clean(name)  # confirmed, and cut off while tidying up
        return {"changed": False, "failed_commands": []}
    for kept in armed["kept"]:
        _restore(kept)
    failed = []
    for command in [["systemctl", "daemon-reload"], *armed["commands"]]:
        code, said = _run(command)
        if code != 0:
            failed.append(f"`{' '.join(command)}`: {said.strip()}")
    _clean(name)
    return {"changed": True, "failed_commands": failed}


def apply(commands: list[list[str]]) -> dict[str, Any]:
    """Run the commands of the change in order.

    Raises:
        GuardError: one failed; those after it were not run.
    """
    for command in commands:
        code, said = _run(command)
        if code != 0:
            raise GuardError(f"`{' '.join(command)}` failed (exit {code}): {said.strip()}")
    return {"changed": bool(commands)}


def _service(name: str) -> str:
    return f"hedgerow-guard-{name}.service"


def _keep(path: str, copy: Path) -> dict[str, Any]:
    """Copy a file or note a link; a missing one is noted as missing."""
    kept: dict[str, Any] = {"path": path, "copy": None, "link": None}
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return kept
    if stat.S_ISLNK(status.st_mode):
        return kept | {"link": str(Path(path).readlink())}
    if not stat.S_ISREG(status.st_mode):
        return kept | {"copy": ""}  # a directory: left as it will be
    _write(copy, Path(path).read_bytes())
    return kept | {
        "copy": str(copy),
        "mode": stat.S_IMODE(status.st_mode),
        "owner": status.st_uid,
        "group": status.st_gid,
    }


def _restore(kept: dict[str, Any]) -> None:
    path = Path(kept["path"])
    if kept["copy"] == "":
        return
    if kept["copy"] is None and kept["link"] is None:
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.rmdir()  # one that holds something now is not ours alone
        else:
            path.unlink(missing_ok=True)
        return
    temporary = path.with_name(f".{path.name}.guard")
    temporary.unlink(missing_ok=True)
    if kept["link"] is not None:
        temporary.symlink_to(kept["link"])
    else:
        _write(temporary, Path(kept["copy"]).read_bytes())
        os.chown(temporary, kept["owner"], kept["group"])
        temporary.chmod(kept["mode"])
    temporary.replace(path)
    _sync(path.parent)


def _clean(name: str) -> None:
    """Remove the clock, the unit and the folder; the unit first, so that a cut here leaves no unit without folder."""
    _run(["systemctl", "stop", _service(name).replace(".service", ".timer")])
    (UNITS / "sysinit.target.wants" / _service(name)).unlink(missing_ok=True)
    (UNITS / _service(name)).unlink(missing_ok=True)
    shutil.rmtree(GUARDS / name, ignore_errors=True)
    _run(["systemctl", "daemon-reload"])


def _write(path: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).chmod(0o600 if path.parent.is_relative_to(GUARDS) else 0o644)
    Path(temporary).replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _run(command: list[str]) -> tuple[int, str]:
    """Exit code and output of a program; a missing or hanging one counts as failed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr + done.stdout


if __name__ == "__main__":
    for problem in revert(sys.argv[1])["failed_commands"]:
        print(problem, file=sys.stderr)  # noqa: T201 - the journal
