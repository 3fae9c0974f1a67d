"""Place what no registry has on this device, so that it can be activated; nothing in serving changes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import IO

from hedgerow import atomic
from hedgerow.device import links
from hedgerow.device.change import configuration_version
from hedgerow.device.restarting import FILE, validate
from hedgerow.errors import DeviceError, UsageError
from hedgerow.runtime.install import MARKER

MOST_BYTES = 64 * 1024
KEEP = 5
"""Configurations beside those that links name; each has a few hundred bytes."""


def configuration(home: Path, version: str, source: IO[bytes], device: dict[str, str]) -> int:
    """Place the configuration that ``source`` has as ``version`` (its hash); the bytes that are new.

    Owner and mode are those of the one in service: the server has to read it.

    Raises:
        UsageError: it is another one, or one that the server would refuse.
        RefusedError: it is another device's.
        DeviceError: this device has none in service yet.
    """
    data = source.read(MOST_BYTES + 1)
    found = configuration_version(data)
    if found != version or len(data) > MOST_BYTES:
        raise UsageError(
            f"what came is configuration:{found}, not configuration:{version}",
            where="standard input",
            next_step=f"hedgerow-device stage configuration:{found} < {FILE}",
        )
    validate(data, device, where="standard input")
    path = home / version / FILE
    there = path.is_file() and path.read_bytes() == data
    try:
        pattern = (home / links.CURRENT / FILE).stat()
    except OSError as error:
        raise DeviceError(
            f"this device has no configuration in service: {error.strerror}",
            where=str(home / links.CURRENT),
            next_step="playbooks/site.yml for this host",
        ) from error
    if not there:
        path.parent.mkdir(exist_ok=True)
        path.parent.chmod(0o755)
        atomic.write_bytes(path, data, mode=0o600)
    # Also of one that is there: a cut may have come between its content and its owner.
    os.chown(path, pattern.st_uid, pattern.st_gid)
    path.chmod(pattern.st_mode & 0o777)
    _prune(home, version)
    return 0 if there else len(data)


def require_runtime(home: Path, version: str) -> None:
    """Look whether a runtime is installed.

    Raises:
        UsageError: it is not.
    """
    if not (home / version / MARKER).is_file():
        raise UsageError(
            f"runtime:{version} is not on this device",
            where=str(home),
            next_step="a rollout brings it, and so does playbooks/site.yml; no registry has it",
        )


def _prune(home: Path, newest: str) -> None:
    kept = {newest, links.target(home, links.CURRENT), links.target(home, links.PREVIOUS)}
    others = [entry for entry in home.iterdir() if entry.is_dir() and not entry.is_symlink() and entry.name not in kept]
    others.sort(key=lambda entry: entry.stat().st_mtime, reverse=True)
    for entry in others[KEEP:]:
        shutil.rmtree(entry, ignore_errors=True)
