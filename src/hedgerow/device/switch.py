"""Restart the server, and move the links of its runtimes, for commands that are confined and may do neither.

The standard library alone, under the system's own Python: what brings a runtime back must not need one. systemd starts
it for each connection to ``/run/hedgerow-switch.sock`` (root's alone); a line of JSON comes in, a line goes out.

- ``{"restart": true}``: the server starts anew; answered once it is ready, or has failed to be.
- ``{"link": "current"|"previous"|"confirmed", "version": VERSION|null}``: the link points at that runtime, which has to
  be a finished one. So a confined command chooses among the runtimes that are installed, and can make none.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RUNTIMES = Path("/opt/hedgerow/runtime")
MARKER = "hedgerow-runtime.json"
LINKS = ("current", "previous", "confirmed")
SERVER = "hedgerow-server.service"
# systemd's own limits for its stop and its start, and a margin.
TIMEOUT_S = 240
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,127}")

Run = Callable[[Sequence[str]], str | None]
"""Runs a program; None if it went well, else what it said."""


def answer(line: str, *, root: Path = RUNTIMES, run: Run | None = None) -> dict[str, Any]:
    """Do what ``line`` asks; ``{"done": bool, "said": str}``."""
    try:
        asked = json.loads(line)
    except ValueError:
        asked = None
    match asked:
        case {"restart": True}:
            said = _restart(run or _run)
        case {"link": str(link), "version": str() | None as version} if link in LINKS:
            said = _point(root, link, version)
        case _:
            said = "it asks for nothing that is done here"
    return {"done": said is None, "said": said or ""}


def _restart(run: Run) -> str | None:
    # A server that had failed too often in a row is started no more until this is said.
    run(["systemctl", "reset-failed", SERVER])
    return run(["systemctl", "--no-ask-password", "restart", SERVER])


def _point(root: Path, link: str, version: str | None) -> str | None:
    path = root / link
    try:
        if version is None:
            path.unlink(missing_ok=True)
        elif not _VERSION.fullmatch(version) or not (root / version / MARKER).is_file():
            return f"{version} is no finished runtime of this device"
        else:
            temporary = root / f".{link}.switch"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(version)
            temporary.replace(path)
        _fsync(root)
    except OSError as error:
        return f"{error.strerror or error}: {error.filename or path}"
    return None


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _run(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(sys.stdin.readline())) + "\n")
