"""The state of one model on disk: two links and a pending file. Reading and writing them, each in one step.

``current`` and ``previous`` point at version folders beside them; ``pending.json`` says that an activation waits for
its confirmation.
"""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path

import msgspec

from hedgerow import atomic
from hedgerow.errors import DeviceError

CURRENT = "current"
PREVIOUS = "previous"
PENDING = "pending.json"


class Pending(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """An activation that nobody has confirmed: ``from_`` None is a first activation.

    ``deadline`` is UTC; ``boot_id`` and ``deadline_boottime_s`` (seconds on the clock that runs since boot) hold
    against a wall clock that jumps.
    """

    name: str
    from_: str | None
    to: str
    since: datetime
    deadline: datetime
    boot_id: str
    deadline_boottime_s: float


def target(home: Path, link: str) -> str | None:
    """The version that ``link`` points at; None where there is no link, or its folder is gone."""
    path = home / link
    return path.readlink().name if path.is_symlink() and path.is_dir() else None


def point(home: Path, link: str, version: str | None) -> None:
    """Make ``link`` point at a version; None removes it."""
    if version is None:
        with contextlib.suppress(FileNotFoundError):
            (home / link).unlink()
        atomic.fsync_dir(home)
    else:
        atomic.symlink(version, home / link)


def read_pending(folder: Path) -> Pending | None:
    """The pending activation.

    Raises:
        DeviceError: the file is damaged.
    """
    path = folder / PENDING
    try:
        return msgspec.json.decode(path.read_bytes(), type=Pending)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise DeviceError(
            f"the pending activation cannot be read: {error}",
            where=str(path),
            next_step=f"what is served stays; remove {path} after looking at it",
        ) from error


def write_pending(folder: Path, pending: Pending) -> None:
    """Note a pending activation, flushed to disk."""
    # The server reads the deadline for its health report.
    atomic.write_bytes(folder / PENDING, msgspec.json.encode(pending), mode=0o644)


def remove_pending(folder: Path) -> None:
    """End it."""
    (folder / PENDING).unlink(missing_ok=True)
    atomic.fsync_dir(folder)
