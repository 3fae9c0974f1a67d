"""Put applications in place, start them and look at them, for commands that are confined and may do none of it.

The standard library alone, under the system's own Python, as ``switch``; with a socket of its own
(``/run/hedgerow-applications/switch.sock``, root's alone), so that who restarts the server gets no right to write for
it. A line of JSON comes in, a line goes out:

- ``{"place": NAME, "version": VERSION}``: unpack that bundle of the device's store, and write its unit.
- ``{"link": "current"|"previous", "name": NAME, "version": VERSION|null}``: the link points at a version that was
  placed; without ``current`` nothing of it runs.
- ``{"start": NAME, "version": VERSION}``: systemd starts what ``current`` names in place of what ran; answered once it
  is active and its ports answer on loopback, or they do not.
- ``{"look": true}``: how all of them are.

Whatever asks can choose among applications that the device has a folder for, and never what a unit says: that is made
here (``application_files``), of a bundle that is held to its manifest. ``/run/hedgerow-applications/state.json`` has
what was seen last, for the health report.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Run as a file it finds this beside it; -I keeps Python from looking there by itself.
if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hedgerow.device import application_files as files
from hedgerow.device import application_unit as units
from hedgerow.device.application_files import MARKER, NotDoneError, fsync

LINKS = ("current", "previous")
START_WITHIN_S = 60
"""For its ports to answer, once systemd has it active."""
SETTLED_S = 2.0
"""A program that ends at once has not started."""
# Longer than systemd takes to stop one (TimeoutStopSec= of its unit, at the most), to start it, and for its ports.
TIMEOUT_S = 300
_COMMAND_S = 200
_POLL_S = 0.2
_ASK_S = 1.0
_NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,127}")
_PROPERTIES = "Id,ActiveState,SubState,Result,NRestarts"

Run = Callable[[Sequence[str]], tuple[int, str]]
"""Runs a program: its exit code, and what it printed."""


@dataclass(frozen=True)
class Places:
    """``bundles/NAME/VERSION`` are the store's; ``root/NAME/VERSION`` are placed here; ``run`` is gone with a boot."""

    bundles: Path = Path("/var/lib/hedgerow/applications")
    root: Path = Path("/opt/hedgerow/applications")
    run: Path = Path("/run/hedgerow-applications")

    def stale(self, name: str) -> Path:
        """There while ``current`` names another version than the one that was started."""
        return self.run / f"{name}.stale"


class Switch:
    """Does what a line asks. ``answers`` says whether somebody listens at a port on loopback."""

    def __init__(
        self,
        places: Places | None = None,
        *,
        run: Run | None = None,
        answers: Callable[[str, int], bool] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = places or Places()
        self._run = run or _run
        self._answers = answers or listens
        self._sleep = sleep
        self._monotonic = monotonic

    def answer(self, line: str) -> dict[str, Any]:
        """``{"done": bool, "said": str, "applications": [...]}``."""
        said = ""
        try:
            self._do(line)
        except NotDoneError as error:
            said = str(error)
        except units.UnitError as error:
            said = f"its unit is refused: {error}"
        except OSError as error:
            said = str(error)
        found = self.look()
        return {"done": not said, "said": said, "applications": found}

    def _do(self, line: str) -> None:
        try:
            asked = json.loads(line)
        except ValueError:
            asked = None
        match asked:
            case {"look": True}:
                pass
            case {"place": str(name), "version": str(version)}:
                self._place(self._home(name), version)
            case {"link": str(link), "name": str(name), "version": str() | None as version} if link in LINKS:
                self._point(self._home(name), link, version)
            case {"start": str(name), "version": str(version)}:
                self._start(self._home(name), version)
            case _:
                raise NotDoneError("it asks for nothing that is done here")

    def _home(self, name: str) -> Path:
        home = self._places.root / name
        if not _NAME.fullmatch(name) or not home.is_dir() or home.is_symlink():
            raise NotDoneError(f"this device runs no application {name}")
        return home

    # -- placing -----------------------------------------------------------

    def _place(self, home: Path, version: str) -> None:
        """Have ``home/version`` whole. One that is there stays as it is."""
        if not _VERSION.fullmatch(version):
            raise NotDoneError(f"{version} is no version")
        if (home / version / MARKER).is_file():
            return
        files.place(self._places.bundles / home.name / version, home, version)
        self._prune(home, version)

    def _prune(self, home: Path, newest: str) -> None:
        """What no link names goes; the store has its bundle for as long as that is kept."""
        kept = {newest, *(_target(home, link) for link in LINKS)}
        for entry in home.iterdir():
            if entry.is_dir() and not entry.is_symlink() and entry.name not in kept:
                files.take_away(entry)

    # -- what runs ---------------------------------------------------------

    def _point(self, home: Path, link: str, version: str | None) -> None:
        path = home / link
        if version is not None and (not _VERSION.fullmatch(version) or not (home / version / MARKER).is_file()):
            raise NotDoneError(f"{home.name}@{version} was not placed on this device")
        if link == "current":
            self._places.stale(home.name).touch()
        if version is None:
            if link == "current":
                self._stop(units.file_name(home.name))
            path.unlink(missing_ok=True)
            fsync(home)
            if link == "current":
                self._command("daemon-reload")
                self._places.stale(home.name).unlink(missing_ok=True)
            return
        temporary = home / f".{link}.switch"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(version)
        temporary.replace(path)
        fsync(home)

    def _stop(self, unit: str) -> None:
        _, said = self._run(["systemctl", "stop", unit])  # fails for one that was never loaded, which is as good
        code, _ = self._run(["systemctl", "is-active", "--quiet", unit])
        if code == 0:
            raise NotDoneError(f"{unit} was not stopped: {said.strip()}")

    def _start(self, home: Path, version: str) -> None:
        if _target(home, "current") != version:
            raise NotDoneError(f"current names {_target(home, 'current') or 'nothing'}, not {version}")
        unit = units.file_name(home.name)
        self._command("daemon-reload")
        # One that had failed too often in a row is started no more until this is said; it may not be loaded at all.
        self._run(["systemctl", "reset-failed", unit])
        self._command("--no-ask-password", "restart", unit)
        self._places.stale(home.name).unlink(missing_ok=True)
        began = self._monotonic()
        while True:
            found = self._seen([home.name])[0]
            passed = self._monotonic() - began
            if not found["active"] or found["restarts"]:
                raise NotDoneError(f"it does not stay up: {found['state']}")
            if not found["silent"] and passed >= SETTLED_S:
                return
            if passed > START_WITHIN_S:
                silent = ", ".join(found["silent"])
                raise NotDoneError(f"nobody answers at {silent} on loopback {START_WITHIN_S} s after its start")
            self._sleep(_POLL_S)

    def _command(self, *words: str) -> None:
        code, said = self._run(["systemctl", *words])
        if code != 0:
            raise NotDoneError(said.strip() or f"systemctl {' '.join(words)} ended with {code}")

    # -- how they are ------------------------------------------------------

    def look(self) -> list[dict[str, Any]]:
        """How all of them are; also written down for who may not ask."""
        root = self._places.root
        names = sorted(path.name for path in root.iterdir() if _NAME.fullmatch(path.name)) if root.is_dir() else []
        found = self._seen(names)
        text = json.dumps({"at": time.time(), "applications": found})
        temporary = self._places.run / f".state.{os.getpid()}"
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self._places.run / "state.json")
        except OSError:
            temporary.unlink(missing_ok=True)
        return found

    def _seen(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """``version`` None: not installed. ``silent``: its ports that nobody answers at. ``state``: systemd's words."""
        if not names:
            return []
        wanted = [units.file_name(name) for name in names]
        _, text = self._run(["systemctl", "show", "--property", _PROPERTIES, *wanted])
        blocks = [dict(line.split("=", 1) for line in part.splitlines() if "=" in line) for part in text.split("\n\n")]
        by_unit = {block.get("Id", ""): block for block in blocks}
        found = []
        for name, unit in zip(names, wanted, strict=True):
            shown, version = by_unit.get(unit, {}), _target(self._places.root / name, "current")
            active = shown.get("ActiveState") == "active"
            state = "/".join(shown.get(key, "unknown") for key in ("ActiveState", "SubState"))
            result = shown.get("Result", "")
            ports = [] if version is None else _ports(self._places.root / name / version)
            found.append(
                {
                    "name": name,
                    "version": version,
                    "active": active,
                    "started": not self._places.stale(name).exists(),
                    "restarts": int(shown.get("NRestarts") or 0),
                    "silent": [
                        f"{number}/{kind}" for kind, number in ports if not (active and self._answers(kind, number))
                    ],
                    "state": state if result in {"", "success"} else f"{state}, {result}",
                }
            )
        return found


def listens(kind: str, number: int) -> bool:
    """Whether somebody listens at a port of loopback. One of UDP cannot be asked: it has to be bound."""
    if kind == "udp":
        return any(_bound(Path(f"/proc/net/{table}"), number) for table in ("udp", "udp6"))
    for address in ("127.0.0.1", "::1"):
        try:
            socket.create_connection((address, number), timeout=_ASK_S).close()
        except OSError:
            continue
        return True
    return False


def _bound(table: Path, number: int) -> bool:
    try:
        lines = table.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return False
    return any(line.split()[1].endswith(f":{number:04X}") for line in lines)


def _ports(folder: Path) -> list[tuple[str, int]]:
    try:
        return [(kind, number) for kind, number in json.loads((folder / MARKER).read_bytes())["ports"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _target(home: Path, link: str) -> str | None:
    path = home / link
    return path.readlink().name if path.is_symlink() and path.is_dir() else None


def _run(command: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr or done.stdout


if __name__ == "__main__":
    sys.stdout.write(json.dumps(Switch().answer(sys.stdin.readline())) + "\n")
