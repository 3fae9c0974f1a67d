"""Write a bootloader image with a configuration, the way that changes nothing else.

Sent to the host by ``hedgerow.remote_script``: standard library only. What to write is decided on the controller
(``hedgerow.converge.eeprom``); here it is made, read back, and given to ``rpi-eeprom-update``.

Invariants:

- ``rpi-eeprom-config --apply`` and ``--edit`` are not used: they take the channel's newest image (F26).
- What was decided from is read once more: a board that changed since the facts were read is left alone.
- The new image is read back before it is written: its build and its configuration are the ones that were decided.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

FOLDER = Path("/var/lib/hedgerow/eeprom")
# In memory: what was flashed under the running system is what the next boot runs, and then no news any more.
WRITTEN = Path("/run/hedgerow-eeprom.json")
_TIMEOUT_S = 120
# rpi-eeprom-update's own words, where its exit code alone does not say whether a reboot is all that is missing.
_IMMEDIATE = "UPDATE SUCCESSFUL"
_MEANINGS = {1: "an update is still required", 2: "it failed", 3: "the board is frozen (FREEZE_VERSION=1)"}


class EepromError(Exception):
    """What a person must read; ``hedgerow.remote_script`` carries it to the controller."""

    def __init__(self, what: str, *, where: str | None = None, next_step: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.next_step = what, where, next_step


def write(image: str, timestamp: int, before: str, config: str, folder: str = str(FOLDER)) -> dict[str, Any]:
    """Stage (or, where the host is set so, flash) ``image`` with ``config``.

    ``timestamp`` is the build that the image must be of, ``before`` the configuration that the decision was made from.

    Returns ``changed``, ``immediate`` and ``msg``.
    """
    if build_of(Path(image).read_bytes()) != timestamp:
        raise EepromError("the image is not of the build that was decided", where=image, next_step="run it again")
    present = _output("rpi-eeprom-config")
    if present.strip() != before.strip():
        raise EepromError(
            "the bootloader's configuration is not what the facts said",
            where="rpi-eeprom-config",
            next_step="run again",
        )
    place = Path(folder)
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    # What the board had: the way back, should anybody want it.
    _write(place / "before.conf", before)
    _write(place / "boot.conf", config)
    new = place / "new.bin"
    _output("rpi-eeprom-config", image, "--config", str(place / "boot.conf"), "--out", str(new))
    written = _output("rpi-eeprom-config", str(new))
    if written != config or build_of(new.read_bytes()) != timestamp:
        raise EepromError(
            "the new image does not hold what was asked for", where=str(new), next_step="df -h; run again"
        )
    # -d: the configuration of the file, instead of a migration of the running one. -f: this file, no other.
    said = _output("rpi-eeprom-update", "-d", "-f", str(new))
    immediate = _IMMEDIATE in said
    if immediate:
        _write(WRITTEN, json.dumps({"timestamp": timestamp, "config": config}))
    return {
        "changed": True,
        "immediate": immediate,
        "msg": "written; it runs after the next reset" if immediate else "staged; the next reboot writes it",
    }


def build_of(data: bytes) -> int | None:
    found = re.search(rb"BUILD_TIMESTAMP=(\d+)", data)
    return int(found[1]) if found else None


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _output(*argv: str) -> str:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EepromError(f"{argv[0]} did not run: {error}", next_step="apt-get install rpi-eeprom") from error
    if done.returncode != 0:
        meaning = _MEANINGS.get(done.returncode, "it failed") if argv[0] == "rpi-eeprom-update" else "it failed"
        raise EepromError(
            f"{argv[0]} ended with {done.returncode}: {meaning}",
            where=(done.stderr or done.stdout).strip()[-500:] or argv[-1],
            next_step="rpi-eeprom-update",
        )
    return done.stdout
