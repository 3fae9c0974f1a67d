"""What ``transition`` describes, on disk: two links beside the versions, and ``pending.json``; each changes at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from hedgerow import atomic
from hedgerow.device.transition import Pending
from hedgerow.errors import DeviceError

CURRENT = "current"
PREVIOUS = "previous"
PENDING = "pending.json"


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


def sweep(homes: Iterable[Path], folder: Path) -> None:
    """Remove the temporary names that a kill left of ``point`` and ``write_pending``; the caller holds the lock.

    ``homes`` have the links.
    """
    left = [*folder.glob(f".{PENDING}.*")]
    for home in homes:
        left += [*home.glob(f".{CURRENT}.*.new"), *home.glob(f".{PREVIOUS}.*.new")]
    for path in left:
        path.unlink(missing_ok=True)


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
    """Note a pending activation, flushed to disk. Readable for all: the server shows the deadline in its report."""
    atomic.write_bytes(folder / PENDING, msgspec.json.encode(pending), mode=0o644)


def remove_pending(folder: Path) -> None:
    """End it."""
    (folder / PENDING).unlink(missing_ok=True)
    atomic.fsync_dir(folder)
